/** The Lambda function. Its trigger is the ready queue of the lane "images". */

import { lambdaWorker } from "sluice/worker";
import { tasks } from "./tasks.ts";

export const handler = lambdaWorker({ tasks });
