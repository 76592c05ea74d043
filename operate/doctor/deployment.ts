/** The checks of queues and functions, with the caller's permissions. */

import type { LambdaClient } from "@aws-sdk/client-lambda";
import { checkReplicationGroup } from "#operate/doctor/elasticache.ts";
import { type CheckResult, skip } from "#operate/doctor/finding.ts";
import { type FunctionReports, readFunctions } from "#operate/doctor/functions.ts";
import {
  checkConcurrency,
  checkFunctions,
  checkSettings,
  checkTriggers,
  checkVisibility,
} from "#operate/doctor/lambda.ts";
import {
  checkDeadLetters,
  checkEncryption,
  checkRedrive,
  type QueueReports,
  readQueues,
} from "#operate/doctor/queues.ts";
import type { Deployment } from "#operate/doctor/report.ts";
import { type Check, type DoctorReport, runChecks } from "#operate/doctor/run.ts";
import type { QueueUrls } from "#operate/operation.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import { type Environment, isSet } from "#shared/runtime/environment.ts";

export interface DeploymentPorts {
  readonly sqs: QueueClient;
  readonly lambda: LambdaClient;
  readonly environment: Environment;
}

interface PartOf<Reports> {
  readonly name: string;
  readonly title: string;
  run(reports: Reports, deployment: Deployment): CheckResult;
}

const QUEUE_CHECKS: readonly PartOf<QueueReports>[] = [
  { name: "queues", title: "the queues answer", run: ({ findings }) => ({ findings }) },
  {
    name: "redrive",
    title: "redrive policies and retention",
    run: (reports, { is_local: isLocal }) => checkRedrive(reports, isLocal),
  },
  { name: "encryption", title: "encryption of the queues", run: checkEncryption },
  { name: "dead_letters", title: "dead letters", run: checkDeadLetters },
];

const FUNCTION_CHECKS: readonly PartOf<FunctionReports>[] = [
  { name: "lambda", title: "Lambda answers", run: ({ findings }) => ({ findings }) },
  { name: "triggers", title: "event source mappings", run: checkTriggers },
  { name: "visibility", title: "visibility timeouts", run: checkVisibility },
  { name: "functions", title: "functions and RecursiveLoop", run: checkFunctions },
  { name: "concurrency", title: "concurrency", run: checkConcurrency },
  {
    name: "settings",
    title: "settings that functions share",
    run: (reports, { flow_partitions: partitions }) => checkSettings(reports, partitions),
  },
];

/** Several requests for each lane, and Lambda accepts about 15 a second. */
const LIMIT_MS = 60_000;

/** Checks the queues and functions of a deployment. Never rejects. */
export function checkDeployment(ports: DeploymentPorts, deployment: Deployment): Promise<DoctorReport> {
  const urls = queuesOf(deployment);
  const elastiCache: Check = {
    name: "elasticache",
    title: "durability and failover of ElastiCache",
    run: () => checkReplicationGroup(ports.lambda, deployment.replication_group, ports.environment),
  };
  const count = urls.ready.size + [urls.completions, urls.deadLetters].filter(Boolean).length;
  if (count === 0) {
    const reason = "no queue is named: set COMPLETIONS_QUEUE_URL, DEAD_LETTER_QUEUE_URL and READY_QUEUES";
    return runChecks([elastiCache, ...skipped(QUEUE_CHECKS, reason), ...skipped(FUNCTION_CHECKS, reason)]);
  }
  const queues = readQueues(ports.sqs, urls);
  const ofQueues = bound(QUEUE_CHECKS, queues, deployment);
  if (!hasLambda(urls, ports.environment)) {
    const reason = "the queues are not on AWS, and AWS_ENDPOINT_URL_LAMBDA names no other Lambda";
    return runChecks([elastiCache, ...ofQueues, ...skipped(FUNCTION_CHECKS, reason)]);
  }
  const functions = queues.then((read) => readFunctions(ports.lambda, read.queues));
  return runChecks([elastiCache, ...ofQueues, ...bound(FUNCTION_CHECKS, functions, deployment)]);
}

function bound<Reports>(
  parts: readonly PartOf<Reports>[],
  reports: Promise<Reports>,
  deployment: Deployment,
): Check[] {
  return parts.map(({ name, title, run }) => ({
    name,
    title,
    limitMs: LIMIT_MS,
    run: async () => run(await reports, deployment),
  }));
}

function skipped(parts: readonly Pick<PartOf<never>, "name" | "title">[], reason: string): Check[] {
  return parts.map(({ name, title }) => ({ name, title, run: async () => skip(reason) }));
}

function queuesOf(deployment: Deployment): QueueUrls {
  const { completions_queue: completions, dead_letter_queue: deadLetters, ready_queues: ready } = deployment;
  return {
    ...(completions === undefined ? {} : { completions }),
    ...(deadLetters === undefined ? {} : { deadLetters }),
    ready: new Map(Object.entries(ready).map(([lane, url]) => [unwrap(parseLaneId(lane)), url])),
  };
}

const AWS_HOST = /\.amazonaws\.com(?:\.cn)?$/;

/** Another SQS than AWS's comes without a Lambda, unless an endpoint is set, as for LocalStack. */
function hasLambda({ completions, ready }: QueueUrls, environment: Environment): boolean {
  if (isSet(environment, "AWS_ENDPOINT_URL_LAMBDA") || isSet(environment, "AWS_ENDPOINT_URL")) return true;
  return [completions ?? "", ...ready.values()].some((url) => AWS_HOST.test(URL.parse(url)?.hostname ?? ""));
}
