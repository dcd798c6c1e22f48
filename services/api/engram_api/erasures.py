"""What the door does for people who want to take their data along, or have it gone."""

from __future__ import annotations

import re
from typing import Any

from engram_api.asking import Asking
from engram_api.calls import Answer, Call
from engram_api.cursors import unseal
from engram_api.drafts import command_id
from engram_api.models import ErasureBody, ErasuresQuery, ExportQuery, NoQuery
from engram_contracts.answers import Export
from engram_contracts.erasing import Erase, ExportRecorded, ListErasures, StartErasure, StatusErasure
from engram_contracts.errors import NotFound

EXPORT_SECONDS = 30.0
LISTING = "export"
NO_ERASURE = "there is no erasure with this id"
_ERASURE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class ErasureHandlers(Asking):
    """The operations that export and erase."""

    async def export(self, call: Call[None, ExportQuery]) -> Answer:
        """A page of everything that is kept of the tenant, or of one user."""
        tenant, query = call.caller.tenant, call.query
        after = unseal(query.cursor, tenant=tenant, listing=LISTING, pepper=self._pepper)
        question = ExportRecorded(tenant=tenant, user_id=query.user_id, limit=query.limit, after=after)
        page = await self._ask(question, within=EXPORT_SECONDS)
        return Answer(data=Export.model_construct(records=page.records), meta=self._next(page.after, tenant, LISTING))

    async def start_erasure(self, call: Call[ErasureBody, NoQuery]) -> Answer:
        """Have everything of one user erased. Its id derives from the idempotency key, as that of a replay does."""
        identity = command_id(call, Erase.op, call.body.user_id)
        question = StartErasure(
            tenant=call.caller.tenant, user_id=call.body.user_id, id=identity, actor=call.caller.actor
        )
        status = await self._ask(question)
        return Answer(data=status, headers={"Location": f"/v1/erasures/{identity}"})

    async def list_erasures(self, call: Call[None, ErasuresQuery]) -> Answer:
        """Erasures, newest first."""
        return Answer(data=await self._ask(ListErasures(tenant=call.caller.tenant, limit=call.query.limit)))

    async def get_erasure(self, call: Call[None, NoQuery]) -> Answer:
        """How far an erasure is; the signed report, once it is done."""
        try:
            return Answer(data=await self._ask(StatusErasure(tenant=call.caller.tenant, id=_erasure_id(call))))
        except NotFound as error:
            raise NotFound(NO_ERASURE) from error


def _erasure_id(call: Call[Any, Any]) -> str:
    text = call.path["id"]
    if not _ERASURE.fullmatch(text):
        raise NotFound(NO_ERASURE)
    return text
