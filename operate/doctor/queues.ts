/** The checks of the queues: reachable, redrive policies, retention, encryption, and dead letters. */

import type { QueueAttributeName } from "@aws-sdk/client-sqs";
import { ask } from "#operate/doctor/aws.ts";
import { type CheckResult, type DoctorFinding, found, skip } from "#operate/doctor/finding.ts";
import type { QueueUrls } from "#operate/operation.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import type { QueueClient } from "#shared/queue/client.ts";

export interface QueueReport {
  readonly url: string;
  readonly kind: "completions" | "ready" | "dead_letters";
  /** The lane of a ready queue or of its dead-letter queue. */
  readonly lane: string | undefined;
  readonly arn: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** The queue to which SQS moves what is given up. */
  readonly redrive: Redrive | undefined;
}

interface Redrive {
  readonly target: string;
  readonly maxReceives: number;
}

export interface QueueReports {
  readonly queues: readonly QueueReport[];
  readonly findings: readonly DoctorFinding[];
}

const ATTRIBUTES = [
  "QueueArn",
  "RedrivePolicy",
  "RedriveAllowPolicy",
  "VisibilityTimeout",
  "MessageRetentionPeriod",
  "SqsManagedSseEnabled",
  "KmsMasterKeyId",
  "ApproximateNumberOfMessages",
  "ApproximateNumberOfMessagesNotVisible",
] as const satisfies QueueAttributeName[];

/** Reads the attributes of all queues, and of the dead-letter queues that they name. Never rejects. */
export async function readQueues(client: QueueClient, urls: QueueUrls): Promise<QueueReports> {
  const { completions, deadLetters, ready } = urls;
  const named = [
    ...(completions === undefined
      ? []
      : [{ url: completions, kind: "completions" as const, lane: undefined }]),
    ...(deadLetters === undefined
      ? []
      : [{ url: deadLetters, kind: "dead_letters" as const, lane: undefined }]),
    ...[...ready].map(([lane, url]) => ({ url, kind: "ready" as const, lane })),
  ];
  const first = await Promise.all(named.map((queue) => readQueue(client, queue)));
  const known = first.flatMap(({ queue }) => (queue === undefined ? [] : [queue]));
  const arns = new Set(known.map(({ arn }) => arn));
  const further = new Map(
    known.flatMap(({ url, lane, redrive }) => {
      const target =
        redrive === undefined || arns.has(redrive.target) ? undefined : urlOf(redrive.target, url);
      return target === undefined
        ? []
        : [[target, { url: target, kind: "dead_letters" as const, lane }] as const];
    }),
  );
  const second = await Promise.all([...further.values()].map((queue) => readQueue(client, queue)));
  const all = [...first, ...second];
  return {
    queues: all.flatMap(({ queue }) => (queue === undefined ? [] : [queue])),
    findings: all.flatMap(({ finding }) => (finding === undefined ? [] : [finding])),
  };
}

/** The URL of a queue of the same account and region as the queue of `url`. */
function urlOf(arn: string, url: string): string | undefined {
  const name = arn.split(":").at(-1) ?? "";
  return name === "" ? undefined : url.replace(/[^/]+\/*$/, name);
}

type NamedQueue = Pick<QueueReport, "url" | "kind" | "lane">;

async function readQueue(
  client: QueueClient,
  named: NamedQueue,
): Promise<{ readonly queue?: QueueReport; readonly finding?: DoctorFinding }> {
  const answer = await ask("sqs:GetQueueAttributes", named.url, async () => {
    const { GetQueueAttributesCommand } = await import("#shared/queue/sdk.ts");
    return client.send(
      new GetQueueAttributesCommand({ QueueUrl: named.url, AttributeNames: [...ATTRIBUTES] }),
    );
  });
  if (!answer.ok) {
    const { reason, finding } = answer;
    if (reason === "missing") return { finding: found("queue_missing", named.url, finding.what) };
    if (reason === "unreachable") return { finding: found("queue_unreachable", named.url, finding.what) };
    return { finding };
  }
  const attributes = answer.value.Attributes ?? {};
  return {
    queue: {
      ...named,
      arn: attributes.QueueArn ?? "",
      attributes,
      redrive: redriveOf(attributes.RedrivePolicy),
    },
  };
}

function redriveOf(policy: string | undefined): Redrive | undefined {
  const fields = parseJsonObject(policy ?? "");
  const target = fields?.deadLetterTargetArn;
  if (typeof target !== "string" || target === "") return undefined;
  return { target, maxReceives: Number(fields?.maxReceiveCount) };
}

/** Throttles and other messages of a batch count as deliveries too. */
const MIN_RECEIVES = { completions: 5, ready: 100 } as const;

export function checkRedrive({ queues }: QueueReports, isLocal: boolean): CheckResult {
  if (isLocal) return skip("the queues are those of a local stack, without the settings of a deployment");
  const byArn = new Map(queues.map((queue) => [queue.arn, queue]));
  const configured = queues.find(({ kind, lane }) => kind === "dead_letters" && lane === undefined);
  const findings = queues.flatMap(({ url, kind, arn, attributes, redrive }): DoctorFinding[] => {
    if (kind === "dead_letters") return [];
    if (redrive === undefined) return [found("redrive_missing", url, "the queue has no RedrivePolicy")];
    const target = byArn.get(redrive.target);
    const least = MIN_RECEIVES[kind];
    return [
      ...(redrive.maxReceives < least
        ? [found("redrive_early", url, `maxReceiveCount is ${redrive.maxReceives}, below ${least}`)]
        : []),
      ...(kind === "completions" && configured !== undefined && configured.arn !== redrive.target
        ? [found("redrive_elsewhere", url, `the redrive policy names ${redrive.target}`)]
        : []),
      ...(target === undefined ? [] : checkTarget(target, arn, attributes)),
    ];
  });
  return { findings };
}

function checkTarget(
  target: QueueReport,
  source: string,
  attributes: QueueReport["attributes"],
): DoctorFinding[] {
  const kept = Number(target.attributes.MessageRetentionPeriod);
  const keptBefore = Number(attributes.MessageRetentionPeriod);
  const allow = parseJsonObject(target.attributes.RedriveAllowPolicy ?? "");
  const sources: readonly unknown[] = Array.isArray(allow?.sourceQueueArns) ? allow.sourceQueueArns : [];
  const isRefused =
    allow?.redrivePermission === "denyAll" ||
    (allow?.redrivePermission === "byQueue" && !sources.includes(source));
  return [
    ...(kept <= keptBefore
      ? [
          found(
            "dead_letter_retention",
            target.url,
            `messages are kept for ${kept} s, and in the source queue for ${keptBefore} s`,
          ),
        ]
      : []),
    ...(isRefused
      ? [found("redrive_refused", target.url, `RedriveAllowPolicy does not include ${source}`)]
      : []),
  ];
}

export function checkEncryption({ queues }: QueueReports): CheckResult {
  const findings = queues
    .filter(
      ({ attributes }) =>
        attributes.SqsManagedSseEnabled !== "true" && (attributes.KmsMasterKeyId ?? "") === "",
    )
    .map(({ url }) =>
      found("queue_unencrypted", url, "SqsManagedSseEnabled is not true, and no KMS key is set"),
    );
  return { findings };
}

export function checkDeadLetters({ queues }: QueueReports): CheckResult {
  const findings = queues.flatMap(({ url, kind, attributes }): DoctorFinding[] => {
    const count =
      Number(attributes.ApproximateNumberOfMessages) +
      Number(attributes.ApproximateNumberOfMessagesNotVisible);
    return kind === "dead_letters" && count > 0
      ? [found("dead_letters_present", url, `about ${count} messages`)]
      : [];
  });
  return { findings };
}
