/** A healthy deployment for the tests of `sluice doctor`: Valkey with replicas, queues, and a fake of Lambda's API. */

import {
  CreateQueueCommand,
  GetQueueAttributesCommand,
  type QueueAttributeName,
  SQSClient,
} from "@aws-sdk/client-sqs";
import { expect, vi } from "vitest";
import { startFauxqs } from "#local/queue-server.ts";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import type { FindingCode } from "#operate/doctor/codes.ts";
import type { DoctorOutput } from "#operate/doctor/report.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { acquireLease } from "#shared/reconcile/lease.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";
import { FakeLambdaApi } from "#test/support/fake-lambda-api.ts";
import { ROUTER } from "#test/support/flow-fixture.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

export type ServerKind = "standalone" | "cluster";

const DURABLE = ["--appendonly", "yes", "--maxmemory", "1gb", "--maxmemory-policy", "noeviction"];
const DAY_SECONDS = 86_400;

/** A deployment of Valkey in which `doctor` finds nothing. */
export interface HealthyValkey extends AsyncDisposable {
  readonly valkey: Valkey;
  readonly primaries: readonly ValkeyServer[];
  readonly environment: Environment;
}

export async function startHealthyValkey(
  kind: ServerKind,
  partitions = ROUTER.numFlowPartitions,
): Promise<HealthyValkey> {
  await using parts = new AsyncDisposableStack();
  const primaries: ValkeyServer[] = [];
  if (kind === "cluster") {
    const extraArgs = [...DURABLE, "--cluster-require-full-coverage", "no"];
    const { nodes } = parts.use(await startValkeyCluster({ primaries: 2, replicas: 1, extraArgs }));
    primaries.push(...nodes.slice(0, 2));
  } else {
    const primary = parts.use(await startValkey({ extraArgs: DURABLE }));
    parts.use(await startValkey({ extraArgs: ["--replicaof", "127.0.0.1", String(primary.port)] }));
    primaries.push(primary);
  }
  const [{ url } = { url: new URL("redis://unset") }] = primaries;
  const valkey = parts.adopt(
    new Valkey({ url, cluster: kind === "cluster" }, { onConnectionError: () => undefined }),
    (client) => client.close(),
  );
  await untilReplicated(valkey);
  await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", partitions);
  await ensureLibrary(valkey, 14);
  await reconcilerRan(valkey);
  const all = parts.move();
  return {
    valkey,
    primaries,
    environment: {
      VALKEY_URL: url.href,
      VALKEY_CLUSTER_MODE: String(kind === "cluster"),
      SLUICE_STAGE: "prod",
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** Ends a run of the reconciler that did nothing. */
export async function reconcilerRan(valkey: Valkey): Promise<void> {
  await (await acquireLease(valkey))?.lease.release("");
}

async function untilReplicated(valkey: Valkey): Promise<void> {
  await vi.waitUntil(
    async () => {
      const infos = await onEveryPrimary(valkey, "info", "replication");
      return infos.every((info) => /^slave0:.*state=online/m.test(String(info)));
    },
    { timeout: 30_000, interval: 100 },
  );
}

type QueueSettings = Partial<Record<QueueAttributeName, string>>;

/** Changes to the settings of a healthy deployment's queues. An empty value omits the attribute. */
export interface QueueChanges {
  readonly completions?: QueueSettings;
  readonly deadLetters?: QueueSettings;
  readonly ready?: QueueSettings;
  readonly readyDeadLetters?: QueueSettings;
}

/** Queues and functions in which `doctor` finds nothing. */
export class HealthyAws implements AsyncDisposable {
  readonly client: SQSClient;
  readonly lambda: FakeLambdaApi;
  /** Variables that the AWS SDK reads from `process.env`. */
  readonly sdkEnvironment: Readonly<Record<string, string>>;
  readonly #parts: AsyncDisposableStack;
  readonly #endpoint: string;
  readonly #partitions: number;
  #deployments = 0;

  private constructor(
    partitions: number,
    parts: AsyncDisposableStack,
    endpoint: string,
    lambda: FakeLambdaApi,
    client: SQSClient,
    environment: Readonly<Record<string, string>>,
  ) {
    this.#partitions = partitions;
    this.#parts = parts;
    this.#endpoint = endpoint;
    this.lambda = lambda;
    this.client = client;
    this.sdkEnvironment = { ...environment, AWS_ENDPOINT_URL_LAMBDA: lambda.endpoint };
  }

  static async start(partitions: number): Promise<HealthyAws> {
    await using parts = new AsyncDisposableStack();
    const server = parts.use(await startFauxqs());
    const lambda = parts.use(await FakeLambdaApi.start());
    const client = parts.adopt(
      new SQSClient({
        endpoint: server.endpoint,
        region: "us-east-1",
        credentials: { accessKeyId: "test", secretAccessKey: "test" },
      }),
      (made) => made.destroy(),
    );
    return new HealthyAws(partitions, parts.move(), server.endpoint, lambda, client, server.environment);
  }

  /** Creates a new deployment's queues and functions. Returns the variables that name them. */
  async deploy(changes: QueueChanges = {}): Promise<Record<string, string>> {
    this.#deployments += 1;
    const prefix = `sluice-${this.#deployments}-`;
    const kept = (days: number): QueueSettings => ({ MessageRetentionPeriod: String(days * DAY_SECONDS) });
    const deadLetters = await this.#create(`${prefix}dead-letters`, { ...kept(14), ...changes.deadLetters });
    const readyDead = await this.#create(`${prefix}ready-dead-letters`, {
      ...kept(14),
      ...changes.readyDeadLetters,
    });
    const completions = await this.#create(`${prefix}completions`, {
      ...kept(4),
      VisibilityTimeout: "180",
      RedrivePolicy: JSON.stringify({ deadLetterTargetArn: deadLetters.arn, maxReceiveCount: 5 }),
      ...changes.completions,
    });
    const ready = await this.#create(`${prefix}ready-images`, {
      ...kept(4),
      VisibilityTimeout: "600",
      RedrivePolicy: JSON.stringify({ deadLetterTargetArn: readyDead.arn, maxReceiveCount: 100 }),
      ...changes.ready,
    });
    const environment = {
      COMPLETIONS_QUEUE_URL: completions.url,
      DEAD_LETTER_QUEUE_URL: deadLetters.url,
      READY_QUEUES: JSON.stringify({ images: ready.url }),
      FLOW_PARTITIONS: String(this.#partitions),
    };
    this.lambda.functions.clear();
    this.lambda.mappings = [];
    this.lambda.unreservedConcurrency = 1_000;
    this.lambda.denied.clear();
    this.lambda.addWorker(`${prefix}dispatch`, completions.arn, 30, environment);
    this.lambda.addWorker(`${prefix}worker-images`, ready.arn, 100, environment);
    this.lambda.addFunction(`${prefix}reconcile`, 57, environment);
    return environment;
  }

  /** The name of a function of the deployment that was made last. */
  nameOf(part: string): string {
    return `sluice-${this.#deployments}-${part}`;
  }

  async arnOf(url: string): Promise<string> {
    const { Attributes: attributes } = await this.client.send(
      new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ["QueueArn"] }),
    );
    return attributes?.QueueArn ?? "";
  }

  async #create(
    name: string,
    settings: QueueSettings,
  ): Promise<{ readonly url: string; readonly arn: string }> {
    const attributes = { SqsManagedSseEnabled: "true", ...settings };
    const { QueueUrl: created = "" } = await this.client.send(
      new CreateQueueCommand({
        QueueName: name,
        Attributes: Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== "")),
      }),
    );
    const url = `${this.#endpoint}${new URL(created).pathname}`;
    return { url, arn: await this.arnOf(url) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }
}

/** Runs `sluice doctor --json`. Returns the exit code, the findings as `[code, where]`, and the whole answer. */
export async function diagnose(environment: Environment, ...args: string[]) {
  const { code, stdout, stderr } = await sluice(["doctor", "--json", ...args], { environment });
  expect(stdout, stderr).not.toBe("");
  const output = parseOutput("doctor", stdout) as DoctorOutput;
  expect(code).toBe(output.findings.length === 0 ? 0 : 1);
  return {
    output,
    codes: [...new Set(output.findings.map((finding) => finding.code))],
    finding: (wanted: FindingCode) => output.findings.find((one) => one.code === wanted),
    reasonOf: (name: string) => output.checks.find((check) => check.name === name)?.reason,
  };
}
