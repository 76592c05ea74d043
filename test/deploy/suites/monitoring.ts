/** Alarms and the dashboard use only metrics that exist, with their exact names and dimensions. */

import { beforeAll, describe, expect, it } from "vitest";
import { VARIANTS } from "#scripts/variants.ts";
import {
  DIMENSION,
  METRICS,
  METRICS_BY_FUNCTION,
  NAMESPACE,
  STAGE_DIMENSION,
} from "#shared/runtime/telemetry.ts";
import { NAMES, OWN, type Packaged } from "#test/deploy/names.ts";
import { at, entriesOf, listOf, type Template } from "#test/deploy/template.ts";

interface Metric {
  readonly namespace: string;
  readonly name: string;
  readonly dimensions: Readonly<Record<string, unknown>>;
}

/** The AWS metrics in use: for each namespace, the dimension and the type of resource that it names. */
const AWS_METRICS: Readonly<
  Record<string, readonly [dimension: string, type: string, names: readonly string[]]>
> = {
  // AWS Lambda Developer Guide, "Types of metrics for Lambda functions".
  "AWS/Lambda": [
    "FunctionName",
    "AWS::Lambda::Function",
    ["Invocations", "Errors", "Throttles", "Duration", "ConcurrentExecutions"],
  ],
  // Amazon SQS Developer Guide, "Available CloudWatch metrics for Amazon SQS".
  "AWS/SQS": [
    "QueueName",
    "AWS::SQS::Queue",
    [
      "ApproximateAgeOfOldestMessage",
      "ApproximateNumberOfMessagesVisible",
      "ApproximateNumberOfMessagesNotVisible",
      "NumberOfMessagesSent",
      "NumberOfMessagesDeleted",
    ],
  ],
  // Amazon ElastiCache User Guide, "Metrics for Valkey and Redis OSS". The dimension names a node of the group.
  "AWS/ElastiCache": [
    "CacheClusterId",
    "AWS::ElastiCache::ReplicationGroup",
    [
      "DatabaseMemoryUsagePercentage",
      "EngineCPUUtilization",
      "Evictions",
      "CurrConnections",
      "ReplicationLag",
    ],
  ],
};
const NODE = /-\d{4}-\d{3}$/;
const SEARCH =
  /^SEARCH\('\{(?<namespace>[^,]+),(?<dimension>\w+)\} (?<value>\$\{\w+\}) MetricName="(?<name>\w+)"', '\w+', 60\)$/;

function metricIn(source: unknown): Metric {
  return {
    namespace: String(at(source, "Namespace")),
    name: String(at(source, "MetricName")),
    dimensions: Object.fromEntries(
      listOf(at(source, "Dimensions")).map((one) => [String(at(one, "Name")), at(one, "Value")]),
    ),
  };
}

/** The metrics of an alarm or of its expression. */
function metricsOf(template: Template, id: string): Metric[] {
  const ofExpression = listOf(template.property(id, "Metrics")).flatMap((one) =>
    listOf(at(one, "MetricStat", "Metric")),
  );
  return (ofExpression.length > 0 ? ofExpression : [template.property(id)]).map(metricIn);
}

/** A dashboard's metrics: namespace, name, and pairs of dimension and value, in one list; or a search for them. */
function shownIn(template: Template): Metric[] {
  const [id = ""] = template.idsOf("AWS::CloudWatch::Dashboard");
  const body: unknown = JSON.parse(String(template.property(id, "DashboardBody", "Fn::Sub")));
  return listOf(at(body, "widgets")).flatMap((widget) =>
    listOf(at(widget, "properties", "metrics")).map((line) => {
      const search = SEARCH.exec(String(at(line, 0, "expression")))?.groups;
      if (search !== undefined) {
        const { namespace = "", name = "", dimension = "", value } = search;
        return { namespace, name, dimensions: { [dimension]: value } };
      }
      const [namespace, name, ...rest] = listOf(line).filter((part) => typeof part === "string");
      const dimensions = rest.flatMap((key, index) => (index % 2 === 0 ? [[key, rest[index + 1]]] : []));
      return {
        namespace: String(namespace),
        name: String(name),
        dimensions: Object.fromEntries(dimensions),
      };
    }),
  );
}

/** The logical id in the value of a dimension. */
function namedBy(value: unknown): string {
  const text = String(at(value, "Fn::Sub") ?? value).replace(NODE, "");
  return text.replace(/^\$\{(\w+)(?:\.\w+)?\}$/, "$1");
}

function expectEmitted(template: Template, stage: string, { namespace, name, dimensions }: Metric): void {
  if (namespace === NAMESPACE) {
    const { [DIMENSION]: service, ...rest } = dimensions;
    expect(rest).toEqual({ [STAGE_DIMENSION]: stage });
    const emitted = new Map<string, readonly string[]>(Object.entries(METRICS_BY_FUNCTION));
    expect(emitted.get(String(service)), `${name} of ${service}`).toContain(name);
    return;
  }
  const [[dimension, value] = [], ...others] = entriesOf(dimensions);
  expect(others).toEqual([]);
  const [ofAws, type, names] = AWS_METRICS[namespace] ?? [];
  expect(names, namespace).toContain(name);
  expect(dimension).toBe(ofAws);
  expect(template.resource(namedBy(value), "Type")).toBe(type);
}

/** The expected alarms: the metric, its function or queue, and the threshold. */
const WANTED = [
  ["ApproximateNumberOfMessagesVisible", "DeadLetterQueue", "GreaterThanThreshold", 0],
  // New letters.
  ["ApproximateNumberOfMessagesVisible", "DeadLetterQueue", "GreaterThanThreshold", 0],
  ["ApproximateAgeOfOldestMessage", "DeadLetterQueue", "GreaterThanThreshold", 604_800],
  ["ApproximateAgeOfOldestMessage", "CompletionsQueue", "GreaterThanThreshold", 300],
  ["Errors", "DispatchLambdaFunction", "GreaterThanThreshold", 0],
  ["Throttles", "DispatchLambdaFunction", "GreaterThanThreshold", 0],
  ["MessagesFailed", "dispatch", "GreaterThanThreshold", 0],
  ["DepthLimitReached", "dispatch", "GreaterThanThreshold", 0],
  ["InvariantViolations", "dispatch", "GreaterThanThreshold", 0],
  ["CompletionsRepaired", "reconcile", "GreaterThanThreshold", 0],
  ["ExecutionsPromoted", "reconcile", "GreaterThanThreshold", 0],
  ["ReclaimLimitReached", "reconcile", "GreaterThanThreshold", 0],
  ["OldestDueDelay", "reconcile", "GreaterThanThreshold", 180],
  ["IndexesUnread", "reconcile", "GreaterThanThreshold", 0],
  ["Invocations", "ReconcileLambdaFunction", "LessThanThreshold", 1],
] as const;

/** The expected alarms of every shard of the stack's own Valkey. */
const WANTED_OF_SHARD = [
  ["DatabaseMemoryUsagePercentage", 75],
  ["EngineCPUUtilization", 80],
  ["Evictions", 0],
  ["CurrConnections", 50_000],
  ["ReplicationLag", 5],
] as const;

export function monitoring(packaged: Packaged): void {
  describe.each(NAMES.filter((name) => name !== "local"))("%s", (variant) => {
    let template: Template;
    let alarms: string[];
    const stage = VARIANTS.find(({ name }) => name === variant)?.stage ?? "";
    const shards = OWN.includes(variant) ? (variant === "restricted" ? [1, 2] : [1]) : [];
    beforeAll(() => {
      template = packaged().template(variant);
      alarms = template.idsOf("AWS::CloudWatch::Alarm");
    });

    it("has the expected alarms, each on a metric that exists", () => {
      const found = alarms.map((id) => {
        const [{ name, dimensions } = { name: "", dimensions: {} }] = metricsOf(template, id);
        const [value] = Object.values(dimensions);
        const { ComparisonOperator, Threshold } = Object.fromEntries(entriesOf(template.property(id)));
        return [name, namedBy(value), ComparisonOperator, Threshold];
      });
      const ofValkey = shards.flatMap(() =>
        WANTED_OF_SHARD.map(([name, above]) => [
          name,
          "ValkeyReplicationGroup",
          "GreaterThanThreshold",
          above,
        ]),
      );
      expect(found.map(String).sort()).toEqual([...WANTED, ...ofValkey].map(String).sort());
      for (const metric of alarms.flatMap((id) => metricsOf(template, id))) {
        expectEmitted(template, stage, metric);
      }
    });

    it("watches every node of the stack's own Valkey", () => {
      const nodes = variant === "restricted" ? 3 : 2;
      const watched = alarms.flatMap((id) => {
        const metrics = metricsOf(template, id).filter(({ namespace }) => namespace === "AWS/ElastiCache");
        return metrics.map(({ name, dimensions }) => `${name} ${at(dimensions.CacheClusterId, "Fn::Sub")}`);
      });
      const expected = shards.flatMap((shard) =>
        WANTED_OF_SHARD.flatMap(([name]) =>
          Array.from(
            { length: nodes },
            (_, node) => `${name} \${ValkeyReplicationGroup}-000${shard}-00${node + 1}`,
          ),
        ),
      );
      expect(watched.sort()).toEqual(expected.sort());
    });

    it("has an alarm for new dead letters, although older ones are kept", () => {
      expect(template.property("NewDeadLettersAlarm")).toMatchObject({
        Metrics: [
          { Expression: "DIFF(FILL(visible, 0) + FILL(hidden, 0))" },
          { Id: "visible", MetricStat: { Metric: { MetricName: "ApproximateNumberOfMessagesVisible" } } },
          { Id: "hidden", MetricStat: { Metric: { MetricName: "ApproximateNumberOfMessagesNotVisible" } } },
        ],
        EvaluationPeriods: 5,
        DatapointsToAlarm: 1,
      });
    });

    it("uses every metric of the functions in an alarm or in a widget", () => {
      const used = [...alarms.flatMap((id) => metricsOf(template, id)), ...shownIn(template)];
      for (const [service, names] of Object.entries(METRICS_BY_FUNCTION)) {
        const ofService = used.filter(({ dimensions }) => dimensions[DIMENSION] === service);
        expect(new Set(ofService.map(({ name }) => name))).toEqual(new Set<string>(names));
      }
      expect(Object.values(METRICS).length).toBeGreaterThan(20);
    });

    it("has an alarm for five minutes without a successful reconciler run, also without data", () => {
      const silent = alarms.filter((id) => template.property(id, "TreatMissingData") === "breaching");
      expect(silent).toEqual(["ReconcilerSilentAlarm"]);
      expect(listOf(template.property("ReconcilerSilentAlarm", "Metrics"))).toEqual([
        { Id: "value", Expression: "invocations - errors" },
        expect.objectContaining({ Id: "invocations", MetricStat: expect.objectContaining({ Period: 300 }) }),
        expect.objectContaining({ Id: "errors", MetricStat: expect.objectContaining({ Period: 300 }) }),
      ]);
    });

    it("shows only metrics that exist: throughput, edges, skips, depth, ages, errors, latency", () => {
      const shown = shownIn(template);
      for (const metric of shown) expectEmitted(template, stage, metric);
      const names = shown.map(({ name }) => name);
      expect(names).toEqual(
        expect.arrayContaining([
          "CompletionsDispatched",
          "EdgesSatisfied",
          "EdgesImpossible",
          "ChildrenSkipped",
          "CascadeDepth",
          "ApproximateAgeOfOldestMessage",
          "OldestResolvableAge",
          "Errors",
          "ValkeyLatency",
        ]),
      );
    });
  });

  it("notifies an existing topic, a new topic, or none", () => {
    const actionsOf = (variant: string): unknown[] => {
      const template = packaged().template(variant);
      return template.idsOf("AWS::CloudWatch::Alarm").map((id) => template.property(id, "AlarmActions"));
    };
    expect(new Set(actionsOf("dev").map(String))).toEqual(new Set([""]));
    for (const actions of actionsOf("prod")) expect(actions).toEqual([{ Ref: "AlarmTopic" }]);
    for (const actions of actionsOf("existing-iam")) {
      expect(actions).toEqual(["arn:aws:sns:us-east-1:123456789012:alarms"]);
    }
    expect(packaged().template("existing-secret").property("AlarmTopic", "Subscription")).toEqual([
      { Protocol: "email", Endpoint: "operators@example.com" },
    ]);
  });
}
