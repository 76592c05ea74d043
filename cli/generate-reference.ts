/**
 * `npm run docs:cli`: writes docs/cli.md and schema/cli.json from the definitions of the commands. A test
 * fails while they are out of date.
 */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { COMMANDS } from "#cli/commands.ts";
import { PACKAGE_ROOT } from "#cli/package-root.ts";
import { cliReference, cliSchema } from "#cli/reference.ts";

writeFileSync(join(PACKAGE_ROOT, "docs/cli.md"), cliReference(COMMANDS));
writeFileSync(join(PACKAGE_ROOT, "schema/cli.json"), cliSchema(COMMANDS));
