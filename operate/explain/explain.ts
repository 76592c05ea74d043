/** Explains one execution: every condition that it waits for, or how and why it ended. Reads only. */

import { z } from "zod";
import { type Cause, cause, causeSchema, sortCauses } from "#operate/explain/causes.ts";
import { overdueCauses } from "#operate/explain/completions.ts";
import { decisionCauses, unmatchedCauses, waitingCauses } from "#operate/explain/dependencies.ts";
import { libraryCauses, partitionCauses } from "#operate/explain/deployment.ts";
import { type EdgesPage, edgesSchema, readEdgesPage, readUnmatched } from "#operate/explain/edges.ts";
import { endedCauses } from "#operate/explain/ended.ts";
import { flowCauses } from "#operate/explain/flow.ts";
import { pauseCauses } from "#operate/explain/lane.ts";
import { missingCauses } from "#operate/explain/missing.ts";
import { activeCauses, invalidState, runnableCauses, timeoutCauses } from "#operate/explain/ownership.ts";
import { type ExplainContext, hasTime, nameOf, sluice } from "#operate/explain/read.ts";
import { type Skip, skipSchema } from "#operate/explain/skip-chain.ts";
import { isBlocked, readSubject, type Subject, stampOf } from "#operate/explain/subject.ts";
import { describeRecord, recordSchema } from "#operate/explain/summary.ts";
import { readUnresolved } from "#operate/explain/upstreams.ts";
import { readWait, type Wait, waitSchema } from "#operate/explain/wait-chain.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { ago, plural } from "#operate/words.ts";
import { checkRecords } from "#shared/consistency/check-record.ts";
import { describeFinding } from "#shared/consistency/finding.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { readGraceMs } from "#shared/reconcile/grace.ts";

/** How often an execution is read that changes meanwhile. */
const MAX_READS = 3;

export const explanationSchema = z.object({
  execution_id: z.string(),
  exists: z.boolean().describe("Whether the execution has a record"),
  summary: z.string().describe("The most important cause, as one sentence or two"),
  record: recordSchema.optional(),
  causes: z.array(causeSchema).describe("Every cause, the most severe first"),
  edges: edgesSchema.optional().describe("The incoming edges. Missing if the execution has none"),
  wait: waitSchema.optional().describe("What it waits for in the end, if an upstream is blocked too"),
  skip: skipSchema.optional().describe("Why it was skipped"),
  next: z
    .array(z.string())
    .describe("Command lines that show more or repair it, of all causes, the safest first"),
});

export type Explanation = z.infer<typeof explanationSchema>;

export interface ExplainRequest {
  readonly id: ExecutionId;
  /** The flow that the caller expects, for an execution without a record. */
  readonly flowId?: FlowId | undefined;
  /** Edges on the page, and where it begins. */
  readonly edges: number;
  readonly cursor?: string | undefined;
}

/**
 * Explains an execution. If it changes while it is read, it is read again, so that a change in progress is not reported as a
 * problem.
 *
 * @throws ValkeyError if the node of the execution does not answer.
 */
export async function explain(context: ExplainContext, request: ExplainRequest): Promise<Explanation> {
  const graceMs = graceOf(context);
  for (let read = 1; ; read += 1) {
    const subject = await readSubject(context, request.id);
    const explanation = await explainOnce(context, request, subject, graceMs);
    const isStable = stampOf(subject) === stampOf(await readSubject(context, request.id));
    if (isStable || read === MAX_READS || !hasTime(context)) return explanation;
  }
}

function graceOf({ environment }: ExplainContext): number {
  const errors: string[] = [];
  const graceMs = readGraceMs(environment, errors);
  if (errors.length > 0) throw new ConfigurationError(errors);
  return graceMs;
}

async function explainOnce(
  context: ExplainContext,
  request: ExplainRequest,
  subject: Subject | undefined,
  graceMs: number,
): Promise<Explanation> {
  const { id } = request;
  const deployment = [
    ...(await partitionCauses(context, id, subject)),
    ...(await libraryCauses(context, id, subject)),
  ];
  if (subject === undefined) {
    const causes = sortCauses([...deployment, ...(await missingCauses(context, id, request.flowId))]);
    return { execution_id: id, exists: false, summary: summaryOf(causes, id), causes, next: nextOf(causes) };
  }
  const state = await stateCauses(context, subject, graceMs);
  const causes = sortCauses([
    ...deployment,
    ...(await flowCauses(context, subject)),
    ...state.causes,
    ...timeoutCauses(subject, graceMs),
    ...(await recordCauses(context, subject)),
  ]);
  const edges = await edgesOf(context, subject, request);
  return {
    execution_id: id,
    exists: true,
    summary: summaryOf(causes, nameOf(id, subject.task)),
    record: describeRecord(subject),
    causes,
    ...(edges === undefined ? {} : { edges }),
    ...(state.wait === undefined ? {} : { wait: state.wait }),
    ...(state.skip === undefined ? {} : { skip: state.skip }),
    next: nextOf(causes),
  };
}

interface StateCauses {
  readonly causes: Cause[];
  readonly skip?: Skip | undefined;
  readonly wait?: Wait | undefined;
}

/** The causes of the state in the record. */
async function stateCauses(context: ExplainContext, subject: Subject, graceMs: number): Promise<StateCauses> {
  switch (subject.record.lifecycle_phase) {
    case "terminal":
      return endedCauses(context, subject, graceMs);
    case "active":
      return { causes: await activeCauses(context, subject, graceMs) };
    case "runnable":
    case "suspended": {
      const dependencies = await dependencyCauses(context, subject, graceMs);
      return {
        ...dependencies,
        causes: [
          ...dependencies.causes,
          ...(await runnableCauses(context, subject, graceMs)),
          ...(await pauseCauses(context, subject)),
        ],
      };
    }
    default:
      return { causes: [invalidState(subject, subject.keys.id)] };
  }
}

async function dependencyCauses(
  context: ExplainContext,
  subject: Subject,
  graceMs: number,
): Promise<StateCauses> {
  const unmatched = await readUnmatched(context, subject);
  const causes = unmatchedCauses(subject, unmatched);
  if (!isBlocked(subject)) return { causes };
  const unresolved = await readUnresolved(context, subject, graceMs);
  const { nowMs, flow } = subject;
  const [blocked] = unresolved.notEnded.get("waiting_children")?.examples ?? [];
  const wait = blocked && (await readWait(context, blocked.upstream, nowMs, graceMs));
  causes.push(...waitingCauses(subject, unresolved, wait, graceMs), ...decisionCauses(subject));
  const { count, examples } = unresolved.overdue;
  const [oldest] = examples;
  if (oldest !== undefined) {
    const overdue = {
      executions: unresolved.overdue.upstreams,
      examples: examples.map(({ upstream, ...rest }) => ({ id: upstream, ...rest })),
      flowId: flow?.keys.id,
    };
    const [task = ""] = await readTaskNames(context, [oldest.upstream]);
    const missing = (details: string): Cause =>
      cause(
        "completion_missing",
        `${plural(count, "upstream")} ended and ${count === 1 ? "its completion has" : "their completions have"} not arrived: presumed ` +
          `missing. ${count === 1 ? "It" : "The oldest"}, ${nameOf(oldest.upstream, task)}, ended ${ago(oldest.endedAtMs, nowMs)} with outcome ` +
          `${oldest.outcome}. ${details}`,
        {
          count,
          involved: {
            executions: examples.map(({ upstream }) => upstream),
            edges: examples.map(({ edge }) => edge),
          },
          next: [
            sluice("publish", oldest.upstream, "--dry-run"),
            sluice("publish", oldest.upstream),
            ...(flow === undefined ? [] : [sluice("reconcile", "--flow", flow.keys.id)]),
          ],
        },
      );
    causes.push(...(await overdueCauses(context, overdue, { nowMs, graceMs }, missing)));
  }
  if (!unmatched.isComplete || !unresolved.isComplete) {
    causes.push(
      cause("reading_incomplete", "Time ran out before all edges were read: the counts are lower limits."),
    );
  }
  return { causes, wait };
}

/** Index entries that disagree with the record. */
async function recordCauses(context: ExplainContext, { keys }: Subject): Promise<Cause[]> {
  const findings = await checkRecords(context, [keys]);
  return findings.map((finding) =>
    cause("index_mismatch", `An index disagrees with the record: ${describeFinding(finding)}.`, {
      next: [sluice("doctor")],
    }),
  );
}

async function edgesOf(
  context: ExplainContext,
  subject: Subject,
  { edges, cursor }: ExplainRequest,
): Promise<EdgesPage | undefined> {
  if (subject.appliedEdges === 0 && (subject.flow?.stagedEdges ?? 0) === 0) return undefined;
  return readEdgesPage(context, subject, edges, cursor);
}

function summaryOf(causes: readonly Cause[], name: string): string {
  const [first] = causes;
  if (first === undefined) return `Nothing holds ${name} back.`;
  const more = causes.filter(({ severity }) => severity === "problem").length - 1;
  return `${first.text}${more > 0 ? ` (and ${plural(more, "more problem")})` : ""}`;
}

function nextOf(causes: readonly Cause[]): string[] {
  return [...new Set(causes.flatMap(({ next }) => next))];
}
