/** Alarms and the dashboard use only metrics that exist, with their exact names and dimensions. */

import { beforeAll, describe, expect, it } from "vitest";
import { DIMENSION, METRICS_BY_FUNCTION, NAMESPACE } from "#shared/runtime/telemetry.ts";
import { NAMES, type Packaged } from "#test/deploy/names.ts";
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
};

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

/** A dashboard's metrics: namespace, name, and pairs of dimension and value, in one list. */
function shownIn(template: Template): Metric[] {
  const [id = ""] = template.idsOf("AWS::CloudWatch::Dashboard");
  const body: unknown = JSON.parse(String(template.property(id, "DashboardBody", "Fn::Sub")));
  return listOf(at(body, "widgets")).flatMap((widget) =>
    listOf(at(widget, "properties", "metrics")).map((line) => {
      const [namespace, name, dimension, value] = listOf(line);
      return { namespace: String(namespace), name: String(name), dimensions: { [String(dimension)]: value } };
    }),
  );
}

/** The logical id in the value of a dimension. */
function namedBy(value: unknown): string {
  const reference = at(value, "Ref") ?? at(value, "Fn::GetAtt", 0) ?? value;
  return String(reference).replace(/^\$\{(\w+)(?:\.\w+)?\}$/, "$1");
}

function expectEmitted(template: Template, { namespace, name, dimensions }: Metric): void {
  const [[dimension, value] = [], ...others] = entriesOf(dimensions);
  expect(others).toEqual([]);
  if (namespace === NAMESPACE) {
    expect(dimension).toBe(DIMENSION);
    const emitted = new Map<string, readonly string[]>(Object.entries(METRICS_BY_FUNCTION));
    expect(emitted.get(String(value)), `${name} of ${value}`).toContain(name);
    return;
  }
  const [ofAws, type, names] = AWS_METRICS[namespace] ?? [];
  expect(names, namespace).toContain(name);
  expect(dimension).toBe(ofAws);
  expect(template.resource(namedBy(value), "Type")).toBe(type);
}

/** The expected alarms: the metric, its function or queue, and the threshold. */
const WANTED = [
  ["ApproximateNumberOfMessagesVisible", "DeadLetterQueue", "GreaterThanThreshold", 0],
  ["ApproximateAgeOfOldestMessage", "CompletionsQueue", "GreaterThanThreshold", 300],
  ["Errors", "DispatchLambdaFunction", "GreaterThanThreshold", 0],
  ["DepthLimitReached", "dispatch", "GreaterThanThreshold", 0],
  ["InvariantViolations", "dispatch", "GreaterThanThreshold", 0],
  ["CompletionsRepaired", "reconcile", "GreaterThanThreshold", 0],
  ["ExecutionsPromoted", "reconcile", "GreaterThanThreshold", 0],
  ["Invocations", "ReconcileLambdaFunction", "LessThanThreshold", 1],
] as const;

export function monitoring(packaged: Packaged): void {
  describe.each(NAMES.filter((name) => name !== "local"))("%s", (variant) => {
    let template: Template;
    let alarms: string[];
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
      expect(found).toEqual(expect.arrayContaining(WANTED.map((alarm) => [...alarm])));
      expect(found).toHaveLength(WANTED.length);
      for (const metric of alarms.flatMap((id) => metricsOf(template, id))) expectEmitted(template, metric);
    });

    it("has an alarm for five minutes without a successful reconciler run, also without data", () => {
      const silent = alarms.filter((id) => template.property(id, "TreatMissingData") === "breaching");
      expect(silent).toEqual(["ReconcilerSilentAlarm"]);
      expect(listOf(template.property("ReconcilerSilentAlarm", "Metrics"))).toEqual([
        expect.objectContaining({ Expression: "invocations - errors" }),
        expect.objectContaining({ Id: "invocations", MetricStat: expect.objectContaining({ Period: 300 }) }),
        expect.objectContaining({ Id: "errors", MetricStat: expect.objectContaining({ Period: 300 }) }),
      ]);
    });

    it("shows only metrics that exist: throughput, edges, skips, depth, ages, errors, latency", () => {
      const shown = shownIn(template);
      for (const metric of shown) expectEmitted(template, metric);
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
    expect(new Set(actionsOf("prod").map(String))).toEqual(new Set([""]));
    for (const actions of actionsOf("existing-secret")) expect(actions).toEqual([{ Ref: "AlarmTopic" }]);
    for (const actions of actionsOf("existing-iam")) {
      expect(actions).toEqual(["arn:aws:sns:us-east-1:123456789012:alarms"]);
    }
    expect(packaged().template("existing-secret").property("AlarmTopic", "Subscription")).toEqual([
      { Protocol: "email", Endpoint: "operators@example.com" },
    ]);
  });
}
