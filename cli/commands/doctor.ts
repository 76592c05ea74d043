import { LambdaClient } from "@aws-sdk/client-lambda";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Option } from "commander";
import type { CliCommand } from "#cli/kit/command.ts";
import { plural } from "#cli/kit/format.ts";
import { printResult } from "#cli/kit/output.ts";
import type { Style } from "#cli/kit/terminal.ts";
import { checkDeployment } from "#operate/doctor/deployment.ts";
import { DOCTOR_OUTPUT, type DoctorOutput, doctorOutput } from "#operate/doctor/report.ts";
import { doctor } from "#operate/read/doctor.ts";

const REQUEST_TIMEOUT_MS = 5_000;

export const doctorCommand: CliCommand = {
  name: "doctor",
  summary: "Check everything that can be wrong before it hurts: Valkey, stored data, queues and functions.",
  access: "read",
  options: [new Option("--full", "check all indexes, not a sample; reads all keys")],
  examples: ["doctor", "doctor --full --json"],
  exitOne: "it found something wrong",
  output: DOCTOR_OUTPUT,
  async execute({ options, environment, terminal, connect }) {
    const runner = await connect();
    // What is stored is checked where Valkey can be reached, and the rest with the caller's permissions.
    const { deployment, ...stored } = await runner.run(doctor, { full: options.full === true });
    const settings = {
      ...(typeof options.region === "string" ? { region: options.region } : {}),
      requestHandler: {
        connectionTimeout: REQUEST_TIMEOUT_MS,
        requestTimeout: REQUEST_TIMEOUT_MS,
        throwOnRequestTimeout: true,
      },
    };
    const sqs = new SQSClient(settings);
    const lambda = new LambdaClient(settings);
    try {
      const own = await checkDeployment({ sqs, lambda, environment }, deployment);
      const output = doctorOutput(deployment, stored, own);
      printResult(terminal, options, output, () => render(output, terminal.style));
      return output.findings.length === 0 ? 0 : 1;
    } finally {
      sqs.destroy();
      lambda.destroy();
    }
  },
};

function render({ checks, findings }: DoctorOutput, style: Style): string[] {
  const errors = findings.filter(({ severity }) => severity === "error").length;
  const notMade = Map.groupBy(
    checks.filter(({ reason }) => reason !== undefined),
    ({ reason = "" }) => reason,
  );
  return [
    ...findings.flatMap(({ code, severity, what, where, remedy }) => [
      `${severity === "error" ? style.red("✗ error") : style.yellow("! warning")}  ${style.bold(code)}  ${where}`,
      `  ${what}`,
      `  ${style.cyan("→")} ${remedy}`,
      "",
    ]),
    ...(notMade.size === 0 ? [] : ["Not checked, or not completely:"]),
    ...[...notMade].map(([reason, some]) =>
      style.dim(`  ${some.map(({ title }) => title).join(", ")}: ${reason}`),
    ),
    ...(notMade.size === 0 ? [] : [""]),
    [
      plural(checks.filter(({ status }) => status !== "skipped").length, "check"),
      plural(errors, "error"),
      plural(findings.length - errors, "warning"),
    ].join(", "),
  ];
}
