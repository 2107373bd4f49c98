"use strict";
// Reads the OpenAPI document, lists its operations and lets them be tried.
// Everything from the document and the server is put in as text, never as HTML.
const base = "/api/v1";
const shown = 64 * 1024; // characters of an answer
let doc = null;
let key = "";

const el = (tag, attrs = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== undefined && c !== ""));
  return node;
};

const deref = (schema) => {
  for (let i = 0; schema && schema.$ref && i < 20; i++) schema = doc.components.schemas[schema.$ref.split("/").pop()];
  return schema || {};
};

// example makes a body to start from: what is required, and what has an example.
const example = (schema, depth = 0) => {
  schema = deref(schema);
  if (schema.examples) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (type === "object" && depth < 5) {
    const out = {};
    for (const name of schema.required || []) out[name] = example(schema.properties[name], depth + 1);
    return out;
  }
  return { object: {}, array: [], string: "", integer: 0, number: 0, boolean: false }[type] ?? null;
};

const typeName = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const type = Array.isArray(schema.type) ? schema.type.filter((t) => t !== "null").join(" or ") : schema.type || "any";
  if (type === "array") return "list of " + typeName(schema.items);
  return schema.enum ? schema.enum.join(" | ") : type;
};

const fields = (schema) => {
  schema = deref(schema);
  const rows = Object.entries(schema.properties || {}).map(([name, s]) =>
    el("tr", {}, el("td", {}, el("code", {}, name), (schema.required || []).includes(name) ? " *" : ""),
      el("td", { class: "dim" }, typeName(s)), el("td", {}, s.description || "")));
  return rows.length ? el("details", {}, el("summary", {}, "Fields"), el("table", {}, ...rows)) : "";
};

const jsonBody = (op) => op.requestBody && op.requestBody.content && op.requestBody.content["application/json"];

const render = (path, method, op) => {
  const section = el("section", { class: "op", id: op.operationId });
  section.append(el("h2", {}, el("span", { class: "method " + method }, method.toUpperCase()), " " + path),
    el("p", {}, op.summary || "", op.description ? " — " + op.description : ""));

  const inputs = [];
  const rows = (op.parameters || []).map((p) => {
    const id = op.operationId + "-" + p.in + "-" + p.name;
    const s = deref(p.schema);
    const input = s.enum
      ? el("select", { id }, el("option", { value: "" }, ""), ...s.enum.map((v) => el("option", {}, String(v))))
      : el("input", { id, autocomplete: "off", placeholder: s.default === undefined ? "" : String(s.default) });
    inputs.push([p, input]);
    return el("tr", {}, el("td", {}, el("label", { for: id }, el("code", {}, p.name), p.required ? " *" : "")),
      el("td", { class: "dim" }, p.in), el("td", {}, input), el("td", {}, p.description || s.description || ""));
  });
  if (rows.length) section.append(el("h3", {}, "Parameters"), el("table", {}, ...rows));

  let body = null;
  const content = jsonBody(op);
  if (content) {
    body = el("textarea", { "aria-label": "Body", spellcheck: "false" });
    body.value = JSON.stringify(example(content.schema), null, 2);
    section.append(el("h3", {}, "Body"), body, fields(content.schema));
  } else if (op.requestBody) {
    body = el("input", { type: "file", "aria-label": "Body" });
    section.append(el("h3", {}, "Body"), body);
  }

  const answers = el("table", {}, ...Object.entries(op.responses || {}).map(([status, r]) => {
    const media = Object.entries(r.content || {}).map(([m, c]) => m + (c.schema && c.schema.$ref ? " (" + typeName(c.schema) + ")" : "")).join(", ");
    return el("tr", {}, el("td", {}, el("code", {}, status)), el("td", {}, r.description || ""), el("td", { class: "dim" }, media));
  }));
  section.append(el("h3", {}, "Answers"), answers);

  const output = el("pre", { hidden: true, role: "status" });
  if (!(op.responses || {})["101"] || (op.responses || {})["200"]) {
    section.append(el("p", {}, el("button", { type: "button", onclick: () => send(path, method, op, inputs, body, output) }, "Send")));
  } else {
    section.append(el("p", { class: "dim" }, "A WebSocket: subprotocols aetherium.v1 and, from a browser, bearer.<key>."));
  }
  section.append(output);
  return section;
};

const send = async (path, method, op, inputs, body, output) => {
  const query = new URLSearchParams();
  const headers = { Authorization: "Bearer " + key };
  let url = base + path;
  output.hidden = false;
  output.className = "";
  for (const [p, input] of inputs) {
    const value = input.value;
    if (p.in === "path") {
      if (!value) { output.textContent = p.name + " is needed"; output.className = "bad"; input.focus(); return; }
      url = url.replace("{" + p.name + "}", p.name === "path" ? value.split("/").map(encodeURIComponent).join("/") : encodeURIComponent(value));
    } else if (value && p.in === "query") {
      for (const v of deref(p.schema).type === "array" || typeName(p.schema).startsWith("list of") ? value.split(",") : [value]) query.append(p.name, v.trim());
    } else if (value && p.in === "header") headers[p.name] = value;
  }
  if ([...query].length) url += "?" + query;
  const init = { method: method.toUpperCase(), headers, credentials: "omit", redirect: "manual" };
  if (body && body.type === "file") {
    if (body.files[0]) init.body = body.files[0];
  } else if (body && body.value.trim()) {
    headers["Content-Type"] = "application/json";
    init.body = body.value;
  }
  const begin = performance.now();
  output.textContent = "…";
  try {
    const answer = await fetch(url, init);
    let text = answer.status + " " + answer.statusText + "\n";
    for (const name of ["content-type", "location", "retry-after", "x-request-id"]) {
      if (answer.headers.get(name)) text += name + ": " + answer.headers.get(name) + "\n";
    }
    const head = text + "\n";
    let got = "";
    if (answer.body) { // shown as it comes: streams do not end
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        got += value;
        output.textContent = head + got;
        if (got.length > shown) { reader.cancel(); got = got.slice(0, shown) + "\n… (cut here)"; break; }
      }
    }
    if ((answer.headers.get("content-type") || "").includes("json")) {
      try { got = JSON.stringify(JSON.parse(got), null, 2); } catch { /* newline-delimited: as it is */ }
    }
    output.textContent = head + got + "\n\n" + Math.round(performance.now() - begin) + " ms";
    output.className = answer.ok ? "" : "bad";
  } catch (err) {
    output.textContent = String(err);
    output.className = "bad";
  }
};

const draw = () => {
  const main = document.getElementById("operations");
  const index = document.getElementById("index");
  const wanted = document.getElementById("filter").value.toLowerCase();
  const byTag = new Map((doc.tags || []).map((t) => [t.name, []]));
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const method of ["get", "post", "put", "patch", "delete", "head"]) {
      const op = item[method];
      if (!op || !(method + " " + path + " " + (op.summary || "")).toLowerCase().includes(wanted)) continue;
      const tag = (op.tags || ["Other"])[0];
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push([path, method, op]);
    }
  }
  main.replaceChildren();
  index.replaceChildren();
  for (const [tag, ops] of byTag) {
    if (!ops.length) continue;
    index.append(el("li", { class: "tag" }, tag));
    for (const [path, method, op] of ops) {
      index.append(el("li", {}, el("a", { href: "#" + op.operationId }, el("span", { class: "method " + method }, method.toUpperCase()), op.summary || path)));
      main.append(render(path, method, op));
    }
  }
};

document.getElementById("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  const state = document.getElementById("state");
  key = document.getElementById("key").value.trim();
  state.className = "";
  state.textContent = "Reading…";
  try {
    const answer = await fetch(base + "/openapi.json", { headers: { Authorization: "Bearer " + key }, credentials: "omit" });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    doc = await answer.json();
    document.getElementById("version").textContent = doc.info.version;
    state.textContent = Object.keys(doc.paths).length + " paths";
    draw();
    document.getElementById("operations").focus();
  } catch (err) {
    state.className = "bad";
    state.textContent = err.message;
  }
});
document.getElementById("filter").addEventListener("input", () => { if (doc) draw(); });
