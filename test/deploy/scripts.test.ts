import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { startStack } from "#local/stack.ts";
import { packageStage } from "#scripts/osls.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { startProgram } from "#test/support/program.ts";

interface Ended {
  readonly status: number | null;
  readonly output: string;
}

/** Runs a script with only the given environment variables. */
async function run(
  script: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  const path = fileURLToPath(new URL(`../../${script}.ts`, import.meta.url));
  // Hides the user's AWS credentials.
  const hidden = { HOME: "/nonexistent", AWS_EC2_METADATA_DISABLED: "true" };
  const { code, stdout, stderr } = await startProgram(path, args, { ...hidden, ...environment }).ended;
  return { status: code, output: stdout + stderr };
}

describe("the scripts of a deployment", () => {
  it.each(["package", "deploy"])("%s --help lists the options", async (script) => {
    const { status, output } = await run(`scripts/${script}`, ["--help"]);
    expect(output).toMatch(/--stage <name[\s\S]*--param <name=value\.\.\.>/);
    expect(status).toBe(0);
  });

  it("reject a stage in capitals and a parameter with several lines before they run osls", async () => {
    await expect(packageStage("Test")).rejects.toThrow('invalid stage name "Test"');
    await expect(packageStage("dev", ["--param=valkeyCa=-----BEGIN\nMII"])).rejects.toThrow(
      "--param valkeyCa has more than one line",
    );
  });

  it("deploy requires a stage, and credentials before it builds", async () => {
    expect(await run("scripts/deploy", [])).toEqual({
      status: 2,
      output: expect.stringContaining("required option '--stage <name>' not specified"),
    });
    expect(await run("scripts/deploy", ["--stage", "prod"])).toEqual({
      status: 2,
      output: expect.stringMatching(/^deploy: AWS credentials not found: set AWS_ACCESS_KEY_ID/),
    });
  });

  it("package rejects an unknown option", async () => {
    const { status, output } = await run("scripts/package", ["--stages", "prod"]);
    expect(output).toContain("unknown option '--stages'");
    expect(status).toBe(2);
  });

  it("first-execution reports that dispatch skipped a child, and every error of its environment", async () => {
    await using stack = await startStack({
      router: new PartitionRouter(DEFAULT_PARTITION_CONFIG),
      maxCascadeDepth: 50,
      onError: (error) => {
        throw new Error(error);
      },
    });
    const environment = {
      ...stack.queue.environment,
      VALKEY_URL: stack.server.url.href,
      COMPLETIONS_QUEUE_URL: stack.queue.queueUrl,
    };
    const { status, output } = await run("cli/first-execution", [], environment);
    expect(output).toMatch(/submitted flow .*\n.*failed .*\n.*dispatch skipped .*: the deployment works\n/);
    expect(status).toBe(0);
    const wrong = await run("cli/first-execution", [], { VALKEY_URL: "nowhere" });
    expect(wrong.output).toMatch(/VALKEY_URL is not a redis[\s\S]*COMPLETIONS_QUEUE_URL is not set/);
    expect(wrong.status).toBe(2);
  });
});
