// A real hub from the real binary with partners on loopback, and a real browser. Nothing here knows the hub's insides.
// Every wait is for a condition, with a bound; every port is a free one; what was started is stopped at the end.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const BIN = process.env.HMS_ESS_BIN ?? "target/debug/hms-ess";
const MODULES = process.env.HMS_ESS_BROWSER_MODULES ?? "target/browser/node_modules";
const CHROMIUM = process.env.HMS_ESS_CHROMIUM ?? "/usr/bin/chromium";
export const SHOTS = process.env.HMS_ESS_SHOTS ?? "target/screenshots";
export const PATIENCE_MS = 30_000;

const require = createRequire(resolve(MODULES, "x.js"));
const { chromium } = require("playwright-core");
export const AXE = require.resolve("axe-core/axe.min.js");

// Chromium as root, and without a word to the outside.
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Asks until the answer is truthy, within a bound. */
export async function until(what, ask, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

/** A partner that answers as it is told to. */
export class Partner {
  constructor(id) {
    this.id = id;
    this.manner = "ack";
    this.received = [];
    this.server = http.createServer((request, response) => this.#take(request, response));
  }

  async start() {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    this.url = `http://127.0.0.1:${this.server.address().port}/update`;
    return this;
  }

  async #take(request, response) {
    let body = "";
    for await (const piece of request) body += piece;
    const event = JSON.parse(body);
    this.received.push({ event, headers: request.headers });
    if (this.manner === "ack") return response.end(JSON.stringify({ ack: event.id }));
    if (this.manner === "silent") return response.end("thank you");
    if (this.manner === "nack") {
      return response.end(JSON.stringify({ nack: event.id, reason: "unknown rule <script>alert(1)</script>", retryable: false }));
    }
    response.statusCode = 503;
    response.end(this.manner);
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

/** A target that Ops are told by, as in the configuration. */
export function webhookTarget(url) {
  return { type: "webhook", url, secret: "env:OPS_SECRET" };
}

/** A hub with its own data directory. */
export class Hub {
  /**
   * `targets`: where Ops are told of trouble, as in the configuration; they are told after a second. `settings`: variables for this
   * hub alone. `sealKey`: the file of the key of the store that it shares.
   */
  static async start(targets = {}, settings = {}, sealKey = undefined) {
    const hub = new Hub();
    hub.dir = await mkdtemp(join(tmpdir(), "hms-ess-browser-"));
    if (sealKey) await copyFile(sealKey, join(hub.dir, "seal.key"));
    const args = ["serve", "--listen", "127.0.0.1:0", "--data", hub.dir, "--allow-net", "127.0.0.0/8"];
    const environment = { ...process.env, HOME: hub.dir, XDG_CONFIG_HOME: hub.dir, NO_COLOR: "1", ...settings };
    environment.OPS_SECRET = `whsec_${Buffer.from("a secret of the tests, 32 bytes.").toString("base64")}`;
    environment.HMS_ESS_TARGETS = JSON.stringify(targets);
    environment.HMS_ESS_ESCALATE_TO = Object.keys(targets).join(",");
    environment.HMS_ESS_ESCALATE_AFTER = "1s";
    hub.process = spawn(BIN, [...args, "--metrics-listen", "127.0.0.1:0"], { env: environment });
    hub.log = "";
    const heard = (piece) => (hub.log += piece);
    hub.process.stdout.on("data", heard);
    hub.process.stderr.on("data", heard);
    hub.process.on("exit", () => (hub.hasEnded = true));
    await until("the hub to listen", () => {
      if (hub.hasEnded) throw new Error(`the hub ended: ${hub.log}`);
      return hub.log.match(/listening on (https?:\/\/\S+)/);
    });
    hub.url = hub.log.match(/listening on (https?:\/\/\S+)/)[1];
    hub.admin = (await readFile(join(hub.dir, "admin.token"), "utf8")).trim();
    return hub;
  }

  /** One request to the API; the answer's status and JSON. */
  async ask(method, path, body, token = this.admin) {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = { authorization: `Bearer ${token}`, ...(text && { "content-type": "application/json" }) };
    // The certificate is of the hub's own CA; who it is, is not what is tested here.
    const request = https.request(this.url + path, { method, headers, rejectUnauthorized: false });
    request.end(text);
    const [response] = await once(request, "response");
    let whole = "";
    for await (const piece of response) whole += piece;
    return { status: response.statusCode, text: whole, json: whole ? JSON.parse(whole) : undefined };
  }

  async must(method, path, body, token) {
    const answer = await this.ask(method, path, body, token);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
    return answer.json;
  }

  async publish(id, version = 3, more = {}) {
    return this.must("POST", "/v1/events", { id, version, payload: { deadline: "16:00", timezone: "local" }, ...more });
  }

  async token(role, more = {}) {
    return (await this.must("POST", "/v1/tokens", { role, note: "browser test", ...more })).token;
  }

  async status(id) {
    return (await this.ask("GET", `/v1/events/${id}/status`)).json;
  }

  /** Waits until the delivery of an event to a partner has this status. */
  async settles(id, partner, word) {
    return until(`${partner} to be ${word} for ${id}`, async () => (await this.status(id))[partner] === word);
  }

  async stop() {
    if (!this.hasEnded) {
      this.process.kill("SIGTERM");
      await once(this.process, "exit");
    }
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** A PostgreSQL server of the test's own, as the system's tests have it; it ends with its input. */
export class Database {
  static async start() {
    const database = new Database();
    const words = "import sys, postgres; server = postgres.Server(); print(server.url('hub'), flush=True); sys.stdin.read(); server.close()";
    database.process = spawn("python3", ["-c", words], { cwd: resolve("tests/system"), stdio: ["pipe", "pipe", "inherit"] });
    let told = "";
    database.process.stdout.on("data", (piece) => (told += piece));
    database.process.on("exit", () => (database.hasEnded = true));
    await until("the database to be there", () => {
      if (database.hasEnded) throw new Error("the database did not start: is PostgreSQL installed?");
      return told.includes("\n");
    });
    database.url = told.trim();
    return database;
  }

  async stop() {
    if (this.hasEnded) return;
    this.process.stdin.end();
    await once(this.process, "exit");
  }
}

/** The browser, with a profile of its own that is thrown away. */
export async function browse() {
  return chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
}

/** A hub in a state worth looking at: acknowledged, retrying, blocked, without ACK, dead, paused, hostile. */
export async function furnish(hub) {
  const partners = {};
  const retry = { first: "2s", max: "10s" };
  const make = async (id, more = {}) => {
    partners[id] = await new Partner(id).start();
    await hub.must("POST", "/v1/partners", { id, channel: "webhook", url: partners[id].url, retry, ...more });
  };
  await make("COURT-CAL", { accepts_version: 1 });
  await make("COUNTY-KIOSK");
  await make("LAW-FIRM-SYS");
  await make("HOSPITAL-EHR", { accepts_version: { "RULE-*": 2, "*": 3 } });
  await make("VENDOR-37", { ack: { by: "body", within: "1s", resend: 0 } });
  await make("CONTRACTOR-9");
  await make("SHERIFF-DISPATCH");
  const script = "{'cutoff': deadline, 'zone': timezone}";
  const examples = [{ input: { deadline: "16:00", timezone: "local" }, output: { cutoff: "16:00", zone: "local" } }];
  await hub.must("POST", "/v1/bridges", { subject: "RULE-COURT-DEADLINE", from: 3, to: 1, script, examples });
  await hub.publish("RULE-COURT-DEADLINE-V2", 3);
  await hub.settles("RULE-COURT-DEADLINE-V2", "COURT-CAL", "ack");
  partners["LAW-FIRM-SYS"].manner = "the database is down <img src=x onerror=alert(1)>";
  partners["VENDOR-37"].manner = "silent";
  partners["CONTRACTOR-9"].manner = "nack";
  await hub.must("POST", "/v1/partners/SHERIFF-DISPATCH/pause", {});
  await hub.publish("RULE-COURT-DEADLINE-V3", 3, { priority: "urgent", source: "<b>HMS-GOV</b> & \"others\"" });
  await hub.publish("FILING-FEE-V1", 1, { payload: { fee: "</code></pre><script>alert(1)</script>" } });
  await hub.settles("RULE-COURT-DEADLINE-V3", "COURT-CAL", "ack");
  await hub.settles("RULE-COURT-DEADLINE-V3", "CONTRACTOR-9", "nack");
  await hub.settles("RULE-COURT-DEADLINE-V3", "LAW-FIRM-SYS", "retrying");
  await hub.settles("RULE-COURT-DEADLINE-V3", "VENDOR-37", "awaiting_ack");
  await hub.publish("NAMED-MINOR-V1", 1, { payload: { name: "Jane Roe" } });
  await hub.settles("NAMED-MINOR-V1", "COUNTY-KIOSK", "ack");
  await hub.must("POST", "/v1/events/NAMED-MINOR-V1/redact", { reason: "a minor is named" });
  await hub.must("POST", "/v1/holds", { subject: "RULE-COURT-*", reason: "Doe v. County, 26-CV-118" });
  await hub.must("POST", "/v1/holds", { event: "FILING-FEE-V1", reason: "audit of fees" });
  return partners;
}

/** A page that fails its test on a console error, a script's error, a violated policy or a foreign request. */
export class Watched {
  static async open(browser, hub, options = {}) {
    const { allowed = [], ...more } = options;
    const watched = new Watched();
    watched.hub = hub;
    watched.faults = [];
    watched.context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 }, ...more });
    watched.page = await watched.context.newPage();
    const fault = (text) => allowed.some((known) => known.test(text)) || watched.faults.push(text);
    watched.page.on("console", (said) => ["error", "warning"].includes(said.type()) && fault(said.text()));
    watched.page.on("pageerror", (error) => fault(error.message));
    watched.page.on("request", (request) => request.url().startsWith(hub.url) || fault(`foreign: ${request.url()}`));
    await watched.context.exposeFunction("tellViolation", (what) => fault(`policy: ${what}`));
    await watched.context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => window.tellViolation(event.violatedDirective));
    });
    return watched;
  }

  async signIn(token = this.hub.admin) {
    await this.page.goto(`${this.hub.url}/dashboard/sign-in`);
    await this.page.getByLabel("Access token").fill(token);
    await this.page.getByRole("button", { name: "Sign in" }).click();
    await this.page.getByRole("button", { name: "Sign out" }).waitFor();
  }

  async close() {
    await this.context.close();
    if (this.faults.length > 0) throw new Error(`the browser complained: ${this.faults.join("; ")}`);
  }
}

/** What axe-core finds against WCAG 2.2 AA. */
export async function audit(page) {
  axeText ??= await readFile(AXE, "utf8");
  // Evaluated from outside: the page's own policy would not let it in.
  await page.evaluate(axeText);
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const found = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), tags);
  const where = ({ target, failureSummary }) => `${target}: ${failureSummary}`;
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(where).join(" | ")}`);
}

let axeText;

/** Keeps a picture of the page for people to look at. */
export async function shoot(page, name) {
  await mkdir(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name.replaceAll(" ", "-")}.png`), fullPage: true });
}
