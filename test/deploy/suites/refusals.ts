/** Deployments that packaging refuses, and those at the limits of what it accepts. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { packageStage } from "#scripts/osls.ts";

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-package-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export function refusals(): void {
  it.each([
    ["a stage with two hyphens in a row", "a--b", [], 'invalid stage name "a--b"'],
    ["a stage that ends with a hyphen", "a-", [], 'invalid stage name "a-"'],
    [
      "a stage that makes an ElastiCache id too long",
      "staging-of-team",
      ["alarmTopic=none"],
      'UserId "sluice-staging-of-team-reconcile-########" longer than 40 characters: use at most 14 characters',
    ],
    [
      "a stage that makes the name of a function too long",
      "s".repeat(48),
      ["alarmTopic=none", "valkey=existing", "valkeyUrl=rediss://valkey.example.com:6379"],
      "longer than 64 characters: use at most 43 characters",
    ],
    ["prod without an alarm topic", "prod", [], "the parameter alarmTopic is not set: use own"],
    [
      "a password in valkeyUrl",
      "dev",
      ["valkey=existing", "valkeyUrl=rediss://user:secret@valkey.example.com:6379"],
      "valkeyUrl contains a password",
    ],
    [
      "worker lanes in a file that does not exist",
      "dev",
      ["workerLanes=nowhere/lanes.json"],
      "workerLanes: cannot read",
    ],
    [
      "durable writes with engine 8 on burstable nodes",
      "dev",
      ["valkeyDurability=async"],
      /valkeyDurability async needs valkeyVersion 9\.0 or later.*\n.*not burstable.*cache\.t4g\.small/,
    ],
  ])("rejects %s", async (_, stage, parameters, expected) => {
    const options = parameters.map((one) => `--param=${one}`);
    const packaged = packageStage(stage, options, await temporaryFolder());
    await expect(packaged).rejects.toThrow(expected);
    await expect(packaged).rejects.not.toThrow("secret@");
  });

  it("accepts the longest stage name, without a topic if there are no alarms, and a password for LocalStack", async () => {
    for (const [stage, ...parameters] of [
      ["staging-of-tea", "monitoring=none"],
      ["local", "valkeyUrl=redis://user:secret@valkey:6379"],
    ] as const) {
      const options = parameters.map((one) => `--param=${one}`);
      await packageStage(stage, options, await temporaryFolder());
    }
  });
}
