// Requests to the service that this page came from.

/** Fired on `window` when the service wants a key. */
export const LOGGED_OUT = "sluice-logged-out";

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Ask, and return the JSON of a success; throw an ApiError that says what is wrong. */
export async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "unreachable", "The service does not answer.");
  }
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  if (response.status === 401 && path !== "v1/session") window.dispatchEvent(new Event(LOGGED_OUT));
  const { code = "http_error", message = `The service answered ${response.status}.` } = content.error ?? {};
  throw new ApiError(response.status, code, message);
}

export const get = (path, query = {}) => {
  const given = Object.entries(query)
    .filter(([, value]) => value !== null && value !== undefined)
    .flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const text = new URLSearchParams(given).toString();
  return ask("GET", text ? `${path}?${text}` : path);
};
export const post = (path, body) => ask("POST", path, body);
export const part = encodeURIComponent;
