/** What ElastiCache says about a replication group: its durability and failover, which the servers do not say. */

import type { LambdaClient } from "@aws-sdk/client-lambda";
import { SignatureV4 } from "@smithy/signature-v4";
import { ask } from "#operate/doctor/aws.ts";
import { type CheckResult, type DoctorFinding, found, skip } from "#operate/doctor/finding.ts";
import type { Environment } from "#shared/runtime/environment.ts";

const SERVICE = "elasticache";
const TIMEOUT_MS = 5_000;
const ACTION = "elasticache:DescribeReplicationGroups";

/**
 * Checks a replication group. One signed request takes the place of a further AWS client; region and credentials are those of
 * the given one.
 */
export async function checkReplicationGroup(
  client: LambdaClient,
  group: string | undefined,
  environment: Environment,
): Promise<CheckResult> {
  if (group === undefined) return skip("VALKEY_REPLICATION_GROUP names no replication group of ElastiCache");
  const answer = await ask(ACTION, group, () => describeGroup(client, group, environment));
  if (!answer.ok) return { findings: [answer.finding] };
  const durability = elementOf(answer.value, "EffectiveDurability") ?? elementOf(answer.value, "Durability");
  const findings: DoctorFinding[] = [
    ...(durability !== undefined && durability !== "sync"
      ? [found("durability_off", group, `its durability is ${durability}`)]
      : []),
    ...(elementOf(answer.value, "AutomaticFailover") === "disabled"
      ? [found("failover_off", group, "AutomaticFailover is disabled")]
      : []),
  ];
  return {
    findings,
    ...(durability === undefined ? { skipped: "durability: ElastiCache's answer does not contain it" } : {}),
  };
}

async function describeGroup(
  { config }: LambdaClient,
  group: string,
  environment: Environment,
): Promise<string> {
  const region = await config.region();
  const endpoint = new URL(
    environment.AWS_ENDPOINT_URL_ELASTICACHE ||
      environment.AWS_ENDPOINT_URL ||
      `https://${SERVICE}.${region}.amazonaws.com${region.startsWith("cn-") ? ".cn" : ""}`,
  );
  const query = { Action: "DescribeReplicationGroups", ReplicationGroupId: group, Version: "2015-02-02" };
  const signer = new SignatureV4({
    service: SERVICE,
    region,
    credentials: config.credentials,
    sha256: config.sha256,
  });
  const { headers } = await signer.sign({
    method: "GET",
    protocol: endpoint.protocol,
    hostname: endpoint.hostname,
    ...(endpoint.port === "" ? {} : { port: Number(endpoint.port) }),
    path: "/",
    query,
    headers: { host: endpoint.host },
  });
  const response = await fetch(`${endpoint.origin}/?${new URLSearchParams(query).toString()}`, {
    headers,
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await response.text();
  if (response.ok) return text;
  throw Object.assign(new Error(elementOf(text, "Message") ?? `HTTP ${response.status}`), {
    name: elementOf(text, "Code") ?? "Error",
  });
}

/** The text of the first element of a name. The answer contains one replication group. */
function elementOf(xml: string, name: string): string | undefined {
  return new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)?.[1];
}
