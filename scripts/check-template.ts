/** Refuses a packaged template that AWS would refuse only during the deployment, after many minutes. */

/** A CloudFormation template, as far as the checks read it. */
export interface TemplateBody {
  readonly Resources: Readonly<Record<string, { readonly Type: string; readonly Properties?: Properties }>>;
}
type Properties = Readonly<Record<string, unknown>>;

/** Identifiers that contain the stage name, with the maximum length that AWS allows. */
const MAX_LENGTHS: readonly (readonly [type: string, property: string, max: number])[] = [
  ["AWS::ElastiCache::User", "UserId", 40],
  ["AWS::ElastiCache::UserGroup", "UserGroupId", 40],
  ["AWS::Lambda::Function", "FunctionName", 64],
  ["AWS::SQS::Queue", "QueueName", 80],
  ["AWS::CloudWatch::Dashboard", "DashboardName", 255],
];
/** Stands for the part of an identifier that CloudFormation inserts: eight characters of the stack's id. */
const INSERTED = "########";
/** Burstable nodes do not support durability. */
const BURSTABLE = /^cache\.t\d/;
/** The first engine version with the property Durability. */
const DURABLE_ENGINE = 9;

/** The errors of the template of a stage; empty if there are none. */
export function templateErrors(template: TemplateBody, stage: string): string[] {
  return [...identifierErrors(template, stage), ...durabilityErrors(template)];
}

function identifierErrors({ Resources }: TemplateBody, stage: string): string[] {
  const excess = Object.values(Resources).flatMap(({ Type, Properties = {} }) =>
    MAX_LENGTHS.filter(([type]) => type === Type).map(([type, property, max]) => {
      const id = textOf(Properties[property]);
      return { id, what: `${type} ${property}`, max, over: id.length - max };
    }),
  );
  const worst = excess.filter(({ over }) => over > 0).sort((one, other) => other.over - one.over)[0];
  if (worst === undefined) return [];
  return [
    `the stage name "${stage}" makes ${worst.what} "${worst.id}" longer than ${worst.max} characters: ` +
      `use at most ${stage.length - worst.over} characters`,
  ];
}

/** The text of an identifier: a string, or strings joined by CloudFormation. */
function textOf(value: unknown): string {
  if (typeof value === "string") return value;
  const [separator, parts] = isFields(value) && Array.isArray(value["Fn::Join"]) ? value["Fn::Join"] : [];
  if (typeof separator !== "string" || !Array.isArray(parts)) return INSERTED;
  return parts.map((part) => (typeof part === "string" ? part : INSERTED)).join(separator);
}

/** ElastiCache's requirements for durable writes (ElastiCache User Guide, "Durability"). */
function durabilityErrors({ Resources }: TemplateBody): string[] {
  return Object.values(Resources).flatMap(({ Type, Properties = {} }) => {
    const { Durability: durability } = Properties;
    if (Type !== "AWS::ElastiCache::ReplicationGroup") return [];
    if (typeof durability !== "string" || durability === "disabled") return [];
    const errors: string[] = [];
    const requirement = (isMet: boolean, text: string): void => {
      if (!isMet) errors.push(`valkeyDurability ${durability} needs ${text}`);
    };
    if (durability !== "sync" && durability !== "async") {
      return [`valkeyDurability is "${durability}": expected disabled, async or sync`];
    }
    const version = String(Properties.EngineVersion);
    const nodeType = String(Properties.CacheNodeType);
    requirement(
      Number.parseInt(version, 10) >= DURABLE_ENGINE,
      `valkeyVersion 9.0 or later, with valkeyFamily valkey9: valkeyVersion is "${version}"`,
    );
    requirement(
      !BURSTABLE.test(nodeType),
      `a node type that is not burstable, such as cache.r7g.large: valkeyNodeType is "${nodeType}"`,
    );
    requirement(Number(Properties.ReplicasPerNodeGroup) >= 1, "valkeyReplicas 1 or more");
    requirement(Properties.MultiAZEnabled === true, "MultiAZEnabled");
    requirement(Properties.AutomaticFailoverEnabled === true, "AutomaticFailoverEnabled");
    requirement(Properties.TransitEncryptionEnabled === true, "TransitEncryptionEnabled");
    requirement(Properties.TransitEncryptionMode !== "preferred", "TransitEncryptionMode required");
    requirement(Properties.AtRestEncryptionEnabled === true, "AtRestEncryptionEnabled");
    requirement(Properties.ClusterMode === "enabled", "ClusterMode enabled");
    return errors;
  });
}

function isFields(value: unknown): value is Properties {
  return typeof value === "object" && value !== null;
}
