// Every act, sent from its page: it happens, it is told, and it stands in the audit trail with its reason.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, beforeEach, test } from "node:test";

import { Hub, Partner, Watched, browse, furnish, shoot, until, webhookTarget } from "./world.mjs";

let hub;
let partners = {};
let room;
let browser;
let watched;

before(async () => {
  room = await new Partner("DUTY-ROOM").start();
  [hub, browser] = await Promise.all([Hub.start({ "duty-room": webhookTarget(room.url) }), browse()]);
  partners = await furnish(hub);
  watched = await Watched.open(browser, hub, { allowed: [/422/, /409/] });
  await watched.signIn();
});

beforeEach(() => watched.page.setViewportSize({ width: 1280, height: 900 }));

after(async () => {
  const complaint = watched?.close();
  await complaint?.catch(() => {});
  await browser?.close();
  for (const partner of [...Object.values(partners), room]) partner?.stop();
  await hub?.stop();
  await complaint;
});

const open = (path) => watched.page.goto(hub.url + path);
const told = (text) => watched.page.locator(".notice").getByText(text).first().waitFor();
const press = (name) => watched.page.getByRole("button", { name, exact: true }).click();

/** The newest line of the audit trail. */
async function noted(act, reason) {
  const lines = (await hub.must("GET", "/v1/audit?limit=1000")).items;
  const found = lines.filter((line) => line.act === act).pop();
  assert.ok(found, `${act} is not in the audit trail`);
  if (reason) assert.equal(found.reason, reason);
}

test("a partner is tested, and what came back is told", async () => {
  await open("/dashboard/partners/COUNTY-KIOSK");
  await press("Send a test");
  await told("Test of COUNTY-KIOSK: status 200, acknowledged");
  await noted("partner.test");
  await open("/dashboard/partners/LAW-FIRM-SYS");
  await press("Send a test");
  await told("the database is down");
});

test("a partner is paused and resumed, each with a reason", async () => {
  const { page } = watched;
  await open("/dashboard/partners/COUNTY-KIOSK");
  await page.locator("#pause-reason").fill("maintenance until noon");
  await press("Pause COUNTY-KIOSK");
  await told("COUNTY-KIOSK is paused");
  await noted("partner.pause", "maintenance until noon");
  await page.locator("#resume-reason").fill("maintenance is over");
  await press("Resume COUNTY-KIOSK");
  await told("goes on");
  await noted("partner.resume", "maintenance is over");
});

test("an act without a reason is not done, even when the browser lets it through", async () => {
  const { page } = watched;
  await open("/dashboard/partners/COUNTY-KIOSK");
  await page.locator("form").evaluateAll((all) => all.forEach((form) => (form.noValidate = true)));
  await press("Pause COUNTY-KIOSK");
  await page.getByText("say why").waitFor();
  assert.equal((await hub.must("GET", "/v1/partners/COUNTY-KIOSK")).paused_since, undefined);
  await page.getByRole("link", { name: "Go back" }).click();
  await page.waitForURL(/partners\/COUNTY-KIOSK$/);
});

test("a new signing secret is shown once, and the next message is signed by both", async () => {
  const { page } = watched;
  await open("/dashboard/partners/COUNTY-KIOSK");
  await page.locator("#rotate-reason").fill("yearly change");
  await press("Rotate the secret");
  await told("shown this once");
  assert.match(await page.locator(".notice pre").innerText(), /^whsec_/);
  await noted("partner.rotate_secret", "yearly change");
  await page.reload();
  assert.equal(await page.locator(".notice pre").count(), 0);
  await press("Send a test");
  await told("acknowledged");
  const signed = partners["COUNTY-KIOSK"].received.pop().headers["webhook-signature"];
  assert.equal(signed.split(" ").filter((one) => one.startsWith("v1,")).length, 2);
});

test("an event is sent again to one partner, marked as a replay", async () => {
  const { page } = watched;
  await open("/dashboard/events/RULE-COURT-DEADLINE-V3");
  await page.locator("#replay-to").fill("COURT-CAL");
  await page.locator("#replay-reason").fill("they lost it");
  await press("Replay");
  await told("goes again to 1 partner");
  await noted("event.replay", "they lost it");
  const isReplay = ({ event, headers }) => event.id === "RULE-COURT-DEADLINE-V3" && headers["x-hms-replay"] === "true";
  await until("the replay", () => partners["COURT-CAL"].received.some(isReplay));
  await page.getByText("replay 1").waitFor();
});

test("a replay that would overtake a newer event is refused with what to do", async () => {
  const { page } = watched;
  await open("/dashboard/events/RULE-COURT-DEADLINE-V2");
  await page.locator("#replay-to").fill("COURT-CAL");
  await page.locator("#replay-reason").fill("by mistake");
  await press("Replay");
  await page.getByText("acknowledged the newer").waitFor();
  await page.getByText("--force").waitFor();
  await shoot(page, "refused");
});

test("an event is taken back at everyone who got it", async () => {
  const { page } = watched;
  await hub.publish("WRONG-FEE-V1", 1);
  await hub.settles("WRONG-FEE-V1", "COURT-CAL", "ack");
  await open("/dashboard/events/WRONG-FEE-V1");
  await page.locator("#retract-reason").fill("the fee was wrong");
  await page.getByLabel("I am sure").check();
  await press("Retract");
  await page.waitForURL(/WRONG-FEE-V1\.retraction$/);
  await noted("event.retract", "the fee was wrong");
  await hub.settles("WRONG-FEE-V1.retraction", "COURT-CAL", "ack");
});

test("a proof is a file that the command line verifies", async () => {
  const { page } = watched;
  await open("/dashboard/events/RULE-COURT-DEADLINE-V2");
  const waiting = page.waitForEvent("download");
  await page.getByRole("link", { name: "Proof of COURT-CAL" }).click();
  const download = await waiting;
  assert.equal(download.suggestedFilename(), "RULE-COURT-DEADLINE-V2.COURT-CAL.proof.json");
  const proof = JSON.parse(await readFile(await download.path(), "utf8"));
  const same = await hub.must("GET", "/v1/ledger/proof?event=RULE-COURT-DEADLINE-V2&partner=COURT-CAL");
  assert.deepEqual(proof.receipt, same.receipt);
});

test("the packet of an event is a file that verifies without a hub", async () => {
  const { page } = watched;
  await open("/dashboard/events/RULE-COURT-DEADLINE-V2");
  const waiting = page.waitForEvent("download");
  await page.getByRole("link", { name: "Packet for a court" }).click();
  const download = await waiting;
  assert.equal(download.suggestedFilename(), "RULE-COURT-DEADLINE-V2.packet.zip");
  const bytes = await readFile(await download.path());
  assert.equal(bytes.subarray(0, 2).toString(), "PK");
});

test("a hold is placed and lifted, each with a reason, and keeps an event from being redacted meanwhile", async () => {
  const { page } = watched;
  await open("/dashboard/holds");
  await page.locator("#place-event").fill("RULE-COURT-DEADLINE-V2");
  await page.locator("#place-reason").fill("subpoena of today");
  await press("Place the hold");
  await told("is in force");
  await noted("hold.add", "subpoena of today");
  const holds = (await hub.must("GET", "/v1/holds")).items;
  const { id } = holds.find((hold) => hold.event === "RULE-COURT-DEADLINE-V2");
  await open("/dashboard/events/RULE-COURT-DEADLINE-V2");
  await page.getByRole("link", { name: "legal hold" }).waitFor();
  const refused = await hub.ask("POST", "/v1/events/RULE-COURT-DEADLINE-V2/redact", { reason: "a try" });
  assert.equal(refused.status, 409);
  await open("/dashboard/holds");
  await page.locator("#lift-number").fill(String(id));
  await page.locator("#lift-reason").fill("the case is over");
  await press("Lift the hold");
  await told("it stays on record");
  await noted("hold.remove", "the case is over");
  await page.getByText("the case is over").waitFor();
});

test("a target is tested from its page, and what came back is told", async () => {
  await open("/dashboard/escalations");
  await press("Test duty-room");
  await told("Test of duty-room: taken");
  await noted("target.test");
  assert.ok(room.received.some(({ event }) => JSON.stringify(event).toLowerCase().includes("test")));
});

test("the ledger is verified and gets a checkpoint", async () => {
  await open("/dashboard/ledger");
  await press("Sign a checkpoint");
  await told("is signed");
  await press("Verify the ledger");
  await told("fits its chain");
});

test("a conversion is tried by the bridges, by a script, and a script that fails is told with its place", async () => {
  const { page } = watched;
  await open("/dashboard/bridges");
  await page.locator("#try-subject").fill("RULE-COURT-DEADLINE");
  await page.locator("#try-from").fill("3");
  await page.locator("#try-to").fill("1");
  await page.locator("#try-payload").fill('{"deadline": "16:00", "timezone": "local"}');
  await press("Try it");
  await page.locator(".notice pre").getByText('"cutoff": "16:00"').waitFor();
  await page.locator("#try-script").fill("{'fee': $uppercase(deadline), 'x': missing}");
  await press("Try it");
  await page.locator(".notice pre").getByText('"fee": "16:00"').waitFor();
  await page.locator(".notice").getByText("missing").waitFor();
  assert.equal(await page.locator("#try-subject").inputValue(), "RULE-COURT-DEADLINE");
  await page.locator("#try-script").fill("{'a': }");
  await press("Try it");
  await page.getByRole("alert").waitFor();
  await shoot(page, "bridge-try");
});

test("the dead letters of one event are discarded, the others redriven", async () => {
  const { page } = watched;
  await open("/dashboard/dead-letters?partner=CONTRACTOR-9");
  await page.locator("#act-event").fill("FILING-FEE-V1");
  await page.locator("#act-reason").fill("settled by phone");
  await press("Discard");
  await told("1 dead letter discarded");
  await noted("dead_letters.discard", "settled by phone");
  partners["CONTRACTOR-9"].manner = "ack";
  await open("/dashboard/partners/CONTRACTOR-9");
  await page.locator("#redrive-reason").fill("they know the rule now");
  await press("Redrive what it missed");
  await told("tried again");
  await noted("dead_letters.redrive", "they know the rule now");
  await hub.settles("RULE-COURT-DEADLINE-V3", "CONTRACTOR-9", "ack");
});

test("when every partner is in step, the overview says so", async () => {
  const { page } = watched;
  for (const partner of Object.values(partners)) partner.manner = "ack";
  await hub.must("POST", "/v1/partners/SHERIFF-DISPATCH/resume", {});
  await hub.must("POST", "/v1/bridges", { subject: "RULE-COURT-DEADLINE", from: 3, to: 2, script: "$" });
  await hub.must("POST", "/v1/bridges", { subject: "*-FEE*", from: 1, to: 3, identity: true });
  await open("/dashboard");
  // VENDOR-37 took its events without a word: it acknowledges them now.
  for (const { event } of partners["VENDOR-37"].received) {
    await hub.ask("POST", "/v1/acks", { ack: event.id, partner: "VENDOR-37" });
  }
  await page.getByRole("heading", { name: "All clear" }).waitFor();
  await shoot(page, "all-clear");
});
