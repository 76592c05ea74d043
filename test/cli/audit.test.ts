import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { recordAudit } from "#operate/audit.ts";
import { environmentFor, parseOutput, sluice } from "#test/cli/support.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("sluice audit on $name", (deployment) => {
  const environment = environmentFor(deployment);

  it("pages through the entries, the newest first", async () => {
    const valkey = deployment.connect();
    const target = `flow ${randomUUID()}`;
    for (const reason of ["first", "second"]) {
      await recordAudit(valkey, { operation: "cancel", actor: "ann@laptop", target, reason });
    }
    valkey.close();
    const reasons: string[] = [];
    let cursor: string | undefined;
    do {
      const { code, stdout } = await sluice(
        ["audit", "--json", "--limit", "1", ...(cursor === undefined ? [] : ["--cursor", cursor])],
        { environment },
      );
      expect(code).toBe(0);
      const page = parseOutput("audit", stdout);
      const own = page.entries.filter((entry: { target: string }) => entry.target === target);
      reasons.push(...own.map((entry: { reason: string }) => entry.reason));
      cursor = page.next;
    } while (cursor !== undefined && reasons.length < 2);
    expect(reasons).toEqual(["second", "first"]);
  });

  it("prints a table for a person", async () => {
    const valkey = deployment.connect();
    const target = `flow ${randomUUID()}`;
    await recordAudit(valkey, { operation: "replay", actor: "bob@laptop", target, reason: "disk was full" });
    valkey.close();
    const { stdout } = await sluice(["audit", "--limit", "1000"], { environment });
    expect(stdout.split("\n").find((line) => line.includes(target))).toMatch(
      /^\d{4}-\d\d-\d\dT.*Z {2}replay +bob@laptop +flow .* disk was full$/,
    );
  });

  it("refuses a cursor that is none", async () => {
    const { code, stderr } = await sluice(["audit", "--cursor", "yesterday"], { environment });
    expect(code).toBe(2);
    expect(stderr).toBe("sluice: cursor: is not a cursor of this command: use `next` of its last answer\n");
  });
});
