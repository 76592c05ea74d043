/** What Lambda says about the functions that the queues trigger, and about the reconciler. */

import type {
  EventSourceMappingConfiguration,
  FunctionConfiguration,
  LambdaClient,
} from "@aws-sdk/client-lambda";
import { type Answer, ask } from "#operate/doctor/aws.ts";
import { type DoctorFinding, found } from "#operate/doctor/finding.ts";
import type { QueueReport } from "#operate/doctor/queues.ts";

export interface FunctionReport {
  readonly name: string;
  readonly configuration: FunctionConfiguration;
  /** Undefined if it cannot be read. */
  readonly recursiveLoop: string | undefined;
  /** The reserved concurrency; undefined if none is reserved or it cannot be read. */
  readonly reserved: number | undefined;
}

/** A queue, the function that takes its messages, and the mapping between them. */
export interface Trigger {
  readonly queue: QueueReport;
  readonly mapping: EventSourceMappingConfiguration;
  /** Undefined if it cannot be read. */
  readonly target: FunctionReport | undefined;
}

export interface FunctionReports {
  readonly triggers: readonly Trigger[];
  readonly functions: readonly FunctionReport[];
  /** Queues whose mappings were read and that have none. */
  readonly untriggered: readonly QueueReport[];
  /** What the account can still run at once beside the reserved concurrency; undefined if it cannot be read. */
  readonly unreservedConcurrency: number | undefined;
  readonly findings: readonly DoctorFinding[];
}

/** Lambda accepts about 15 requests a second of this kind. */
const PARALLEL = 4;
const DISPATCH = /dispatch$/;

/** Reads the mappings of the queues, and the functions. Never rejects. */
export async function readFunctions(
  client: LambdaClient,
  queues: readonly QueueReport[],
): Promise<FunctionReports> {
  const sdk = await import("@aws-sdk/client-lambda");
  const findings: DoctorFinding[] = [];
  const succeeded = <T>(answer: Answer<T>): T | undefined => {
    if (answer.ok) return answer.value;
    findings.push(answer.finding);
    return undefined;
  };
  const sources = queues.filter(({ kind }) => kind !== "dead_letters");
  const mappings = await inParallel(sources, async (queue) => {
    const answer = await ask("lambda:ListEventSourceMappings", queue.arn, () =>
      client.send(new sdk.ListEventSourceMappingsCommand({ EventSourceArn: queue.arn, MaxItems: 100 })),
    );
    return { queue, mappings: succeeded(answer)?.EventSourceMappings };
  });
  const names = new Set(
    mappings.flatMap(({ mappings: some = [] }) => some.map(({ FunctionArn: arn = "" }) => nameOf(arn))),
  );
  // The reconciler has no queue. Its name differs from that of dispatch only in the last word.
  const dispatch = mappings
    .filter(({ queue }) => queue.kind === "completions")
    .flatMap(({ mappings: some = [] }) => some.map(({ FunctionArn: arn = "" }) => nameOf(arn)))
    .find((name) => DISPATCH.test(name));
  if (dispatch !== undefined) names.add(dispatch.replace(DISPATCH, "reconcile"));

  const readFunction = async (name: string): Promise<FunctionReport | undefined> => {
    const configuration = await ask("lambda:GetFunctionConfiguration", name, () =>
      client.send(new sdk.GetFunctionConfigurationCommand({ FunctionName: name })),
    );
    if (!configuration.ok && configuration.reason === "missing") {
      findings.push(found("function_missing", name, configuration.finding.what));
      return undefined;
    }
    const value = succeeded(configuration);
    if (value === undefined) return undefined;
    const recursion = succeeded(
      await ask("lambda:GetFunctionRecursionConfig", name, () =>
        client.send(new sdk.GetFunctionRecursionConfigCommand({ FunctionName: name })),
      ),
    );
    const concurrency = succeeded(
      await ask("lambda:GetFunctionConcurrency", name, () =>
        client.send(new sdk.GetFunctionConcurrencyCommand({ FunctionName: name })),
      ),
    );
    return {
      name,
      configuration: value,
      recursiveLoop: recursion?.RecursiveLoop,
      reserved: concurrency?.ReservedConcurrentExecutions,
    };
  };
  const functions = (await inParallel([...names], readFunction)).filter((one) => one !== undefined);
  const account = succeeded(
    await ask("lambda:GetAccountSettings", "*", () => client.send(new sdk.GetAccountSettingsCommand({}))),
  );
  const byName = new Map(functions.map((one) => [one.name, one]));
  return {
    triggers: mappings.flatMap(({ queue, mappings: some = [] }) =>
      some.map((mapping) => ({ queue, mapping, target: byName.get(nameOf(mapping.FunctionArn ?? "")) })),
    ),
    functions,
    untriggered: mappings.flatMap(({ queue, mappings: some }) => (some?.length === 0 ? [queue] : [])),
    unreservedConcurrency: account?.AccountLimit?.UnreservedConcurrentExecutions,
    findings,
  };
}

/** `arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]` */
function nameOf(arn: string): string {
  return arn.split(":")[6] ?? arn;
}

async function inParallel<T, R>(items: readonly T[], run: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length);
  const next = items.entries();
  const work = async (): Promise<void> => {
    for (const [position, item] of next) results[position] = await run(item);
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  return results;
}
