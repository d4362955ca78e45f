// Reading what the server answers, line by line.

/** Reads newline-delimited JSON. A chunk may end anywhere, inside a character too; a heartbeat is a space in front of
 * the next line, which JSON allows. */
export async function* readLines(response) {
  let rest = "";
  for await (const text of readText(response)) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.trim()) yield line;
  }
  if (rest.trim()) yield rest;
}

/** The body in pieces, as they come. */
export async function* readText(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** The sentence of an error in the contract's shapes. */
export async function messageOf(response) {
  try {
    const body = await response.json();
    if (body.errors) return body.errors.map((error) => error.description).join("; ");
    return typeof (body.message ?? body.result) === "string" ? body.message ?? body.result : JSON.stringify(body.result);
  } catch {
    return `the server answered ${response.status}`;
  }
}
