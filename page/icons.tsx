import { lookOf } from "#page/looks.ts";

/** The icon of a state. Its word stands beside it, so readers of the screen do not need it. */
export function Icon({ state }: { readonly state: string }) {
  const { icon, color } = lookOf(state);
  return (
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true" style={{ color: `var(${color})` }}>
      <path d={icon} />
    </svg>
  );
}

/** Icon and word of a state. */
export function StateLabel({ state }: { readonly state: string }) {
  return (
    <span class="state-label">
      <Icon state={state} />
      {lookOf(state).label}
    </span>
  );
}
