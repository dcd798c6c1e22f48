// Shows /openapi.json, and sends what is typed here to the door that served it. Text from the document is only ever text.

const METHODS = ["get", "post", "patch", "put", "delete"];
const at = (id) => document.getElementById(id);

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function resolve(thing, whole) {
  if (!thing?.$ref) return thing;
  return thing.$ref.slice(2).split("/").reduce((found, part) => found[part], whole);
}

function typeOf(schema, whole) {
  if (!schema) return "text";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(one, whole)).filter((one) => one !== "null").join(" | ");
  if (schema.type === "array") return `${typeOf(schema.items, whole)}[]`;
  return schema.format ?? schema.type ?? "any";
}

function bounds(schema) {
  const named = { minimum: "from", maximum: "to", maxLength: "at most", maxItems: "at most", default: "default" };
  return Object.entries(named).filter(([key]) => schema?.[key] !== undefined)
    .map(([key, word]) => `${word} ${JSON.stringify(schema[key])}`).join(", ");
}

function parameters(operation, whole) {
  const every = (operation.parameters ?? []).map((one) => resolve(one, whole));
  if (!every.length) return null;
  const rows = every.map((one) => {
    const schema = one.schema ?? one.content?.["application/json"]?.schema;
    const field = make("input", { value: one.in === "path" ? one.example ?? "" : "", ariaLabel: one.name });
    field.dataset.name = one.name;
    field.dataset.place = one.in;
    return make("tr", {},
      make("td", {}, make("code", { textContent: one.name }), one.required ? " *" : ""),
      make("td", { className: "soft", textContent: one.in }),
      make("td", {}, typeOf(schema, whole), make("div", { className: "soft" }, one.description ?? bounds(schema))),
      make("td", {}, field));
  });
  return make("div", {}, make("h3", { textContent: "Parameters" }), make("table", {}, ...rows));
}

function fields(schema, whole) {
  const known = resolve(schema, whole);
  const required = new Set(known?.required ?? []);
  const rows = Object.entries(known?.properties ?? {}).map(([name, field]) => make("tr", {},
    make("td", {}, make("code", { textContent: name }), required.has(name) ? " *" : ""),
    make("td", {}, typeOf(field, whole)),
    make("td", { className: "soft" }, field.description ?? bounds(field))));
  return rows.length
    ? make("details", {}, make("summary", { textContent: `Fields of ${known.title ?? "it"}` }), make("table", {}, ...rows))
    : null;
}

function body(operation, whole) {
  const media = operation.requestBody?.content?.["application/json"];
  if (!media) return null;
  const example = Object.values(media.examples ?? {})[0]?.value ?? media.example ?? {};
  const text = make("textarea", { value: JSON.stringify(example, null, 2), spellcheck: false, ariaLabel: "Body" });
  const kinds = media.schema.anyOf ?? [media.schema];
  return make("div", {}, make("h3", { textContent: "Body" }), text, ...kinds.map((one) => fields(one, whole)));
}

function answers(operation, whole) {
  const rows = Object.entries(operation.responses).map(([status, said]) => {
    const answer = resolve(said, whole);
    const media = Object.values(answer.content ?? {})[0];
    const shown = media?.example === undefined ? null : make("details", {},
      make("summary", { textContent: "example" }),
      make("pre", { textContent: typeof media.example === "string" ? media.example : JSON.stringify(media.example, null, 2) }));
    return make("tr", {}, make("td", {}, make("code", { textContent: status })), make("td", {}, answer.description, shown));
  });
  return make("div", {}, make("h3", { textContent: "Answers" }), make("table", {}, ...rows));
}

function request(method, path, card) {
  const headers = {};
  const query = new URLSearchParams();
  let target = path;
  for (const field of card.querySelectorAll("input[data-place]")) {
    const { name, place } = field.dataset;
    if (place === "path") target = target.replace(`{${name}}`, encodeURIComponent(field.value));
    else if (field.value && place === "query") query.append(name, field.value);
    else if (field.value && place === "header") headers[name] = field.value;
  }
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const text = card.querySelector("textarea");
  if (text) headers["Content-Type"] = "application/json";
  const asked = query.size ? `${target}?${query}` : target;
  return [asked, { method: method.toUpperCase(), headers, body: text?.value }];
}

async function send(method, path, card, shown) {
  shown.classList.remove("hidden");
  shown.textContent = "Waiting.";
  try {
    const answer = await fetch(...request(method, path, card));
    const said = await answer.text();
    const kept = ["retry-after", "location", "x-request-id"].filter((name) => answer.headers.has(name))
      .map((name) => `${name}: ${answer.headers.get(name)}`).join("\n");
    shown.textContent = `${answer.status} ${answer.statusText}\n${kept}\n\n${pretty(said)}`;
  } catch (error) {
    shown.textContent = `No answer: ${error.message}`;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function article(method, path, operation, whole) {
  const shown = make("pre", { className: "hidden" });
  shown.setAttribute("aria-live", "polite");
  const inside = make("div", { className: "inside" });
  const card = make("details", { id: operation.operationId },
    make("summary", {}, make("span", { className: `method ${method}`, textContent: method }),
      make("span", { className: "path", textContent: path }), make("span", { textContent: operation.summary }),
      make("span", { className: "badge", textContent: operation["x-permission"] ?? "" })), inside);
  card.addEventListener("toggle", () => {
    if (inside.childElementCount) return;
    const button = make("button", { type: "button", textContent: "Send" });
    button.addEventListener("click", () => send(method, path, card, shown));
    inside.append(...[parameters(operation, whole), body(operation, whole)].filter(Boolean), make("p", {}, button), shown,
      answers(operation, whole));
  });
  return make("article", {}, card);
}

function listed(whole) {
  return Object.entries(whole.paths).flatMap(([path, item]) => METHODS.filter((method) => item[method])
    .map((method) => ({ method, path, operation: item[method] })));
}

function show(whole) {
  at("version").textContent = whole.info.version;
  at("words").textContent = whole.info.description;
  for (const tag of whole.tags) {
    const every = listed(whole).filter((one) => one.operation.tags.includes(tag.name));
    const links = every.map(({ method, path, operation }) => {
      const link = make("a", { href: `#${operation.operationId}` },
        make("span", { className: `method ${method}`, textContent: method }), operation.operationId);
      link.dataset.words = `${path} ${operation.operationId} ${operation.summary}`.toLowerCase();
      return link;
    });
    at("list").append(make("div", {}, make("h2", { textContent: tag.name }), ...links));
    at("operations").append(make("h2", { className: "tag", textContent: tag.name }),
      make("p", { className: "soft", textContent: tag.description ?? "" }),
      ...every.map(({ method, path, operation }) => article(method, path, operation, whole)));
  }
  open();
}

function open() {
  const card = location.hash && at(decodeURIComponent(location.hash.slice(1)));
  if (!card) return;
  card.open = true;
  card.scrollIntoView();
}

function narrow() {
  const wanted = at("find").value.toLowerCase();
  for (const link of document.querySelectorAll("nav a")) link.classList.toggle("hidden", !link.dataset.words.includes(wanted));
}

addEventListener("hashchange", open);
at("find").addEventListener("input", narrow);
try {
  show(await (await fetch("/openapi.json")).json());
} catch (error) {
  at("words").textContent = `The document could not be read: ${error.message}`;
}
