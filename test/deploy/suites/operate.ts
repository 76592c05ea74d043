/** The functions behind `sluice --stage`: who can reach them, and what they may do. */

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import access from "#shared/valkey/access.json" with { type: "json" };
import { ALL, idOf, OPERATE, OWN, type Packaged, WITH_LANES } from "#test/deploy/names.ts";
import { actionsOn } from "#test/deploy/suites/roles.ts";
import { at, listOf, type Template } from "#test/deploy/template.ts";

const DOCS = new URL("../../../docs/deploy.md", import.meta.url);

/** The actions of a role on a queue, by the queue's logical id. */
function onQueue(template: Template, role: string, queue: string): string[] {
  return listOf(template.property(role, "Policies"))
    .flatMap((policy) => listOf(at(policy, "PolicyDocument", "Statement")))
    .filter((statement) =>
      listOf(at(statement, "Resource")).some((resource) => at(resource, "Fn::GetAtt", 0) === queue),
    )
    .flatMap((statement) => listOf(at(statement, "Action")).map(String))
    .sort();
}

export function operate(packaged: Packaged): void {
  describe.each(ALL)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("gives the functions no URL, no trigger and no permission for others to invoke them", () => {
      expect(template.idsOf("AWS::Lambda::Url")).toEqual([]);
      const ids = OPERATE.map(idOf);
      const invokers = [
        ...template.idsOf("AWS::Lambda::Permission"),
        ...template.idsOf("AWS::Lambda::EventSourceMapping"),
      ].map((id) => JSON.stringify(template.property(id, "FunctionName")));
      expect(invokers.filter((name) => ids.some((id) => name.includes(id)))).toEqual([]);
    });

    it("names them for the command, answers within a minute, and retries no asynchronous invocation", () => {
      for (const name of OPERATE) {
        const functionName = String(template.property(idOf(name), "FunctionName"));
        expect(functionName).toMatch(new RegExp(`^sluice-[\\w-]+-${name}$`));
        expect(Number(template.property(idOf(name), "Timeout"))).toBe(60);
        const configs = template
          .idsOf("AWS::Lambda::EventInvokeConfig")
          .filter((id) => JSON.stringify(template.property(id, "FunctionName")).includes(idOf(name)));
        expect(configs.map((id) => template.property(id, "MaximumRetryAttempts"))).toEqual([0]);
      }
    });

    it("lets operate-read look at queues and dead letters, and operate-write send and delete", () => {
      expect(onQueue(template, "OperateReadRole", "CompletionsQueue")).toEqual(["sqs:GetQueueAttributes"]);
      expect(onQueue(template, "OperateReadRole", "DeadLetterQueue")).toEqual([
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
      ]);
      expect(onQueue(template, "OperateWriteRole", "CompletionsQueue")).toEqual([
        "sqs:GetQueueAttributes",
        "sqs:SendMessage",
      ]);
      expect(onQueue(template, "OperateWriteRole", "DeadLetterQueue")).toEqual([
        "sqs:CancelMessageMoveTask",
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:ListMessageMoveTasks",
        "sqs:ReceiveMessage",
        "sqs:StartMessageMoveTask",
      ]);
      expect(actionsOn(template, "OperateReadRole", "*").filter((action) => /^sqs:/.test(action))).toEqual(
        [],
      );
    });
  });

  it.each(WITH_LANES)(
    "%s: operate-read counts the ready queues, and operate-write sends to them",
    (variant) => {
      const template = packaged().template(variant);
      for (const queue of template.idsOf("AWS::SQS::Queue").filter((id) => id.startsWith("LaneQueue"))) {
        expect(onQueue(template, "OperateReadRole", queue)).toEqual(["sqs:GetQueueAttributes"]);
        expect(onQueue(template, "OperateWriteRole", queue)).toEqual([
          "sqs:GetQueueAttributes",
          "sqs:SendMessage",
        ]);
      }
      for (const name of OPERATE) {
        expect(template.environment(idOf(name)).READY_QUEUES).toEqual(
          template.environment(idOf("dispatch")).READY_QUEUES,
        );
      }
    },
  );

  it.each(OWN)(
    "%s: the Valkey user of operate-read has other rights than that of operate-write",
    (variant) => {
      const template = packaged().template(variant);
      expect(template.property("OperateReadUser", "AccessString")).toBe(access["operate-read"].join(" "));
      expect(template.property("OperateWriteUser", "AccessString")).toBe(access["operate-write"].join(" "));
    },
  );

  it("the policies in docs/deploy.md name these functions", () => {
    const [, section = ""] = /\n## Operators\n(.*?)\n## /s.exec(readFileSync(DOCS, "utf8")) ?? [];
    const policies = [...section.matchAll(/```json\n(.*?)```/gs)].map(([, text = ""]) => JSON.parse(text));
    const named = policies.map((policy) =>
      listOf(at(policy, "Statement")).flatMap((statement) => {
        expect(at(statement, "Action")).toBe("lambda:InvokeFunction");
        const effect = at(statement, "Effect");
        return listOf(at(statement, "Resource")).map((arn) => `${effect} ${String(arn).split(":")[6]}`);
      }),
    );
    const [read, write] = OPERATE.map((name) =>
      packaged().template("prod").property(idOf(name), "FunctionName"),
    );
    expect(named).toEqual([[`Allow ${read}`], [`Allow ${read}`, `Allow ${write}`], [`Deny ${write}*`]]);
  });

  it("reserves their concurrency, except in dev and local", () => {
    const reserved = (variant: string) =>
      OPERATE.map((name) =>
        packaged().template(variant).property(idOf(name), "ReservedConcurrentExecutions"),
      );
    expect(reserved("prod")).toEqual([5, 2]);
    for (const variant of ["dev", "local"]) {
      expect(reserved(variant)).toEqual([{ Ref: "AWS::NoValue" }, { Ref: "AWS::NoValue" }]);
    }
  });
}
