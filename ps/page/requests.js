// Requests to the server beside the stream.
//
// The one rule: a refusal is an error with the server's own words. Nothing is asked of any other server, and the
// browser's cookie goes along by itself.

/** The JSON that is answered, null where there is none. */
export async function ask(url, method = "GET", body = null) {
  const sent = body === null ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  let response = null;
  try {
    response = await fetch(url, { method, cache: "no-store", ...sent });
  } catch {
    throw new Error("the server does not answer");
  }
  if (!response.ok) throw new Error(await refusal(response));
  return response.status === 204 ? null : response.json();
}

/** What a refusal says: the words of a problem document, else its status. */
export async function refusal(response) {
  try {
    return (await response.json()).detail ?? `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}
