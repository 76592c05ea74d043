/** The queues. */

import { beforeAll, describe, expect, it } from "vitest";
import { idOf, NAMES, type Packaged } from "#test/deploy/names.ts";
import { at, type Template } from "#test/deploy/template.ts";

const DAY_SECONDS = 86_400;

export function queues(packaged: Packaged): void {
  describe.each(NAMES)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("encrypts messages, hides them for six function timeouts, and keeps dead letters longer", () => {
      const [mapping = ""] = template.idsOf("AWS::Lambda::EventSourceMapping");
      const timeout = Number(template.property(idOf("dispatch"), "Timeout"));
      const window = Number(template.property(mapping, "MaximumBatchingWindowInSeconds") ?? 0);
      const completions = template.property("CompletionsQueue");
      expect(Number(at(completions, "VisibilityTimeout"))).toBeGreaterThanOrEqual(6 * timeout + window);
      expect(completions).toMatchObject({
        SqsManagedSseEnabled: true,
        MessageRetentionPeriod: 4 * DAY_SECONDS,
        RedrivePolicy: {
          deadLetterTargetArn: { "Fn::GetAtt": ["DeadLetterQueue", "Arn"] },
          maxReceiveCount: 5,
        },
      });
      const source = `arn:\${AWS::Partition}:sqs:\${AWS::Region}:\${AWS::AccountId}:${at(completions, "QueueName")}`;
      expect(template.property("DeadLetterQueue")).toMatchObject({
        SqsManagedSseEnabled: true,
        MessageRetentionPeriod: 14 * DAY_SECONDS,
        RedriveAllowPolicy: { redrivePermission: "byQueue", sourceQueueArns: [{ "Fn::Sub": source }] },
      });
    });
  });
}
