import { InvalidRequestError } from "#shared/errors.ts";

const TYPES = ["Create", "Update", "Delete"] as const;

export type RequestType = (typeof TYPES)[number];

/** Where the response goes. All fields except the URL are copied into it. */
export interface ResponseTarget {
  /** The pre-signed URL that receives the response by PUT. */
  readonly responseUrl: URL;
  readonly stackId: string;
  readonly requestId: string;
  readonly logicalResourceId: string;
  /** Never changes: CloudFormation treats another id as a replacement and deletes the old resource. */
  readonly physicalResourceId: string;
}

/**
 * Reads the response target from the event of a Lambda-backed custom resource (AWS CloudFormation User Guide, "Custom
 * resource request objects"). Missing fields become empty, so that even an invalid event gets a response. Throws an
 * InvalidRequestError if the event has no valid response URL.
 */
export function readResponseTarget(event: unknown): ResponseTarget {
  const responseUrl = URL.parse(textIn(event, "ResponseURL"));
  // Emulators of CloudFormation use http.
  if (responseUrl === null || !/^https?:$/.test(responseUrl.protocol)) {
    throw new InvalidRequestError([
      "the event has no valid ResponseURL: expected an event of a CloudFormation custom resource",
    ]);
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

/** Throws an InvalidRequestError for any request type except Create, Update and Delete. */
export function readRequestType(event: unknown): RequestType {
  const text = textIn(event, "RequestType");
  const type = TYPES.find((known) => known === text);
  if (type === undefined) {
    throw new InvalidRequestError([`RequestType is ${JSON.stringify(text)}: expected ${TYPES.join(", ")}`]);
  }
  return type;
}

function textIn(event: unknown, name: string): string {
  if (typeof event !== "object" || event === null) return "";
  const value: unknown = Reflect.get(event, name);
  return typeof value === "string" ? value : "";
}
