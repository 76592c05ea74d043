/** Messages that could not be processed. */
export function DeadLetters({ count }: { readonly count: number }) {
  return (
    <main class="page">
      <h1>Dead letters</h1>
      <p class="muted">{count} messages</p>
    </main>
  );
}
