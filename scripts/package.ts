/**
 * `npm run package`: builds the functions and creates the CloudFormation templates, the artifacts and their SBOM, offline.
 * Exit status: 0, 1 when a step failed, 2 when the arguments are invalid.
 */

import { Command, CommanderError } from "commander";
import { buildFunctions, copySbom, describePackage, packageStage, STAGES } from "#scripts/osls.ts";
import { messageOf } from "#shared/errors.ts";

async function main(): Promise<number> {
  const command = new Command("npm run package --")
    .description(
      "Builds the functions and creates the CloudFormation template and the artifacts of each stage in " +
        ".sluice/package/<stage>, and their SBOM (CycloneDX) in .sluice/package. Needs no AWS account. Without --stage, " +
        "it packages the stages of serverless.yml for review, with alarmTopic=none. Exit status: 0, 1 when a step " +
        "failed, 2 when the arguments are invalid.",
    )
    .option("--stage <name...>", `the stages to package (default: ${STAGES.join(", ")})`)
    .option("--param <name=value...>", "a parameter of serverless.yml; may be repeated")
    .option("--region <region>", "the region of the stack (default: AWS_REGION, or us-east-1)")
    .allowExcessArguments(false)
    .exitOverride();
  try {
    command.parse();
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    throw error;
  }
  const {
    stage,
    param = [],
    region,
  } = command.opts<{
    stage?: string[];
    param?: string[];
    region?: string;
  }>();
  const stages = stage ?? STAGES;
  const options = [
    // A stage without an alarm topic is refused. Without --stage, nothing is deployed: "none" is good enough to review.
    ...(stage === undefined ? ["--param=alarmTopic=none"] : []),
    ...param.map((one) => `--param=${one}`),
    ...(region === undefined ? [] : ["--region", region]),
  ];
  try {
    await buildFunctions();
    for (const name of stages) console.log(describePackage(await packageStage(name, options)));
    console.log(copySbom());
    return 0;
  } catch (error) {
    process.stderr.write(`package: ${messageOf(error)}\n`);
    return 1;
  }
}

process.exitCode = await main();
