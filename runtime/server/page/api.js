// The server's API. The browser itself adds the key it was asked for when the page was opened.

export class ApiError extends Error {}

export async function getJson(path) {
  return answerOf(await fetch(path, { headers: { accept: "application/json" } }));
}

export async function postJson(path, body) {
  return answerOf(await send(path, body));
}

/** The JSON events of a stream, as they come, until `[DONE]`. Throws ApiError, also for an error in mid-stream. */
export async function* streamJson(path, body, signal) {
  const response = await send(path, body, signal);
  if (!response.ok) await answerOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.slice(event.indexOf("data: ") + 6);
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(parsed.error.message);
      yield parsed;
    }
  }
}

function send(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function answerOf(response) {
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const message = body?.error?.message ?? `the server answered ${response.status}`;
  throw new ApiError(response.status === 401 ? `${message}; reload the page to give it` : message);
}
