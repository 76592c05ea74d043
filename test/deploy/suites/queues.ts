/** The queues. */

import { beforeAll, describe, expect, it } from "vitest";
import { idOf, KEY, NAMES, type Packaged } from "#test/deploy/names.ts";
import { at, type Template } from "#test/deploy/template.ts";

const DAY_SECONDS = 86_400;

export function queues(packaged: Packaged): void {
  describe.each(NAMES)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("hides messages for six function timeouts, and keeps dead letters longer", () => {
      const [mapping = ""] = template.idsOf("AWS::Lambda::EventSourceMapping");
      const timeout = Number(template.property(idOf("dispatch"), "Timeout"));
      const window = Number(template.property(mapping, "MaximumBatchingWindowInSeconds") ?? 0);
      const completions = template.property("CompletionsQueue");
      expect(Number(at(completions, "VisibilityTimeout"))).toBeGreaterThanOrEqual(6 * timeout + window);
      expect(completions).toMatchObject({
        MessageRetentionPeriod: 4 * DAY_SECONDS,
        RedrivePolicy: {
          deadLetterTargetArn: { "Fn::GetAtt": ["DeadLetterQueue", "Arn"] },
          maxReceiveCount: 5,
        },
      });
      const source = `arn:\${AWS::Partition}:sqs:\${AWS::Region}:\${AWS::AccountId}:${at(completions, "QueueName")}`;
      expect(template.property("DeadLetterQueue")).toMatchObject({
        MessageRetentionPeriod: 14 * DAY_SECONDS,
        RedriveAllowPolicy: { redrivePermission: "byQueue", sourceQueueArns: [{ "Fn::Sub": source }] },
      });
    });

    it("encrypts messages with the given key, or else with the key of SQS, and refuses plain HTTP", () => {
      const noValue = { Ref: "AWS::NoValue" };
      const policies = template
        .idsOf("AWS::SQS::QueuePolicy")
        .map((id) => template.property(id))
        .flatMap((policy) => [at(policy, "Queues"), at(policy, "PolicyDocument", "Statement", 0)]);
      const expected: unknown[] = [];
      for (const name of ["CompletionsQueue", "DeadLetterQueue"]) {
        expect(template.property(name)).toMatchObject(
          variant === "restricted"
            ? { KmsMasterKeyId: `${KEY}queues`, SqsManagedSseEnabled: noValue }
            : { KmsMasterKeyId: noValue, SqsManagedSseEnabled: true },
        );
        expected.push([{ Ref: name }], {
          Sid: "RefusePlainHttp",
          Effect: "Deny",
          Principal: "*",
          Action: "sqs:*",
          Resource: { "Fn::GetAtt": [name, "Arn"] },
          Condition: { Bool: { "aws:SecureTransport": "false" } },
        });
      }
      expect(policies).toEqual(expected);
    });
  });
}
