// simple-oauth2: Client Credentials and the authorization code with refresh and revocation; prints what came of each.

import { AuthorizationCode, ClientCredentials } from "simple-oauth2";
import { signIn } from "./person.js";

const { root, callback, page, secret } = JSON.parse(process.env.SETTINGS);
const auth = { tokenHost: root, tokenPath: "/id/connect/token", revokePath: "/id/connect/revocation" };

async function read(token) {
  const answer = await fetch(page, { headers: { Authorization: `Bearer ${token.token.access_token}` } });
  return (await answer.json()).value.length;
}

async function service(authorizationMethod) {
  const client = { id: "erpsync.sandbox/service", secret };
  const credentials = new ClientCredentials({ client, auth, options: { authorizationMethod } });
  return read(await credentials.getToken({ scope: ["read", "update"] }));
}

async function person() {
  const paths = { ...auth, authorizePath: "/id/connect/authorize" };
  const flow = new AuthorizationCode({ client: { id: "erpsync.sandbox/web", secret }, auth: paths });
  const sent = { redirect_uri: callback, scope: "read offline_access", state: "s1" };
  const back = (await signIn(flow.authorizeURL(sent))).searchParams;
  const first = await flow.getToken({ code: back.get("code"), redirect_uri: callback });
  const second = await first.refresh();
  const rows = await read(second);
  await second.revokeAll();
  const dead = await second.refresh().catch((error) => error.data.payload.error);
  return { state: back.get("state"), rotated: first.token.refresh_token !== second.token.refresh_token, rows, dead };
}

console.log(JSON.stringify({ header: await service("header"), body: await service("body"), person: await person() }));
