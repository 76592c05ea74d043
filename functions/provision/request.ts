import { InvalidRequestError } from "#shared/errors.ts";

const TYPES = ["Create", "Update", "Delete"] as const;

export type RequestType = (typeof TYPES)[number];

/** Who asked, and where the answer goes. All but the URL goes back as it came. */
export interface Caller {
  /** Pre-signed; a PUT to it is the answer. */
  readonly responseUrl: URL;
  readonly stackId: string;
  readonly requestId: string;
  readonly logicalResourceId: string;
  /** Ours never changes: CloudFormation would take another one for a replacement, and delete the old. */
  readonly physicalResourceId: string;
}

/**
 * Who asked, by the event of a Lambda-backed custom resource (AWS CloudFormation User Guide, "Custom resource request
 * objects"). What is missing becomes empty, so that even a strange event gets its answer; throws an
 * InvalidRequestError where there is nowhere to send one.
 */
export function readCaller(event: unknown): Caller {
  const responseUrl = URL.parse(textIn(event, "ResponseURL"));
  // http: for the emulators of CloudFormation.
  if (responseUrl === null || !/^https?:$/.test(responseUrl.protocol)) {
    throw new InvalidRequestError(["the event has no ResponseURL: it is not one of CloudFormation's"]);
  }
  const logicalResourceId = textIn(event, "LogicalResourceId");
  return {
    responseUrl,
    stackId: textIn(event, "StackId"),
    requestId: textIn(event, "RequestId"),
    logicalResourceId,
    physicalResourceId: textIn(event, "PhysicalResourceId") || logicalResourceId,
  };
}

/** What is asked for. Throws an InvalidRequestError for anything but creating, updating and deleting. */
export function readRequestType(event: unknown): RequestType {
  const text = textIn(event, "RequestType");
  const type = TYPES.find((known) => known === text);
  if (type === undefined) {
    throw new InvalidRequestError([`RequestType is ${JSON.stringify(text)}: it takes ${TYPES.join(", ")}`]);
  }
  return type;
}

function textIn(event: unknown, name: string): string {
  if (typeof event !== "object" || event === null) return "";
  const value: unknown = Reflect.get(event, name);
  return typeof value === "string" ? value : "";
}
