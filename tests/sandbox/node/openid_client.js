// openid-client: every way in which it can be a client of the sandbox; prints what came of each.

import { createPrivateKey } from "node:crypto";
import * as client from "openid-client";
import { signIn } from "./person.js";

const { root, callback, page, secret } = JSON.parse(process.env.SETTINGS);
const insecure = { execute: [client.allowInsecureRequests] }; // plain http, on loopback

const discover = (name, authentication) =>
  client.discovery(new URL(`${root}/id`), `erpsync.sandbox/${name}`, undefined, authentication, insecure);

async function read(config, tokens) {
  const answer = await client.fetchProtectedResource(config, tokens.access_token, new URL(page), "GET");
  return (await answer.json()).value.length;
}

async function service(name, authentication) {
  const config = await discover(name, authentication);
  return read(config, await client.clientCredentialsGrant(config, { scope: "read" }));
}

async function privateKey() {
  const pem = await (await fetch(`${root}/_sandbox/private-key`)).text();
  const der = createPrivateKey(pem).export({ type: "pkcs8", format: "der" });
  const key = await crypto.subtle.importKey("pkcs8", der, { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
  return client.PrivateKeyJwt(key);
}

async function person(name, authentication) {
  const config = await discover(name, authentication);
  const verifier = client.randomPKCECodeVerifier();
  const checks = { expectedState: client.randomState(), expectedNonce: client.randomNonce(), pkceCodeVerifier: verifier };
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: callback,
    scope: "openid profile read offline_access",
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    state: checks.expectedState,
    nonce: checks.expectedNonce,
  });
  const first = await client.authorizationCodeGrant(config, await signIn(url), checks);
  const tokens = await client.refreshTokenGrant(config, first.refresh_token);
  const sub = first.claims().sub;
  const info = await client.fetchUserInfo(config, tokens.access_token, sub);
  const rows = await read(config, tokens);
  const seen = name === "web" ? await client.tokenIntrospection(config, tokens.refresh_token) : null;
  await client.tokenRevocation(config, tokens.refresh_token);
  const dead = await client.refreshTokenGrant(config, tokens.refresh_token).catch((error) => error.error);
  const out = client.buildEndSessionUrl(config, { id_token_hint: tokens.id_token });
  return { sub, name: info.name, rows, active: seen?.active, dead, out: (await fetch(out)).status };
}

console.log(
  JSON.stringify({
    post: await service("service", client.ClientSecretPost(secret)),
    basic: await service("service", client.ClientSecretBasic(secret)),
    signed: await service("signed", await privateKey()),
    native: await person("native", client.None()),
    web: await person("web", client.ClientSecretPost(secret)),
    refused: await service("service", client.ClientSecretPost("wrong")).catch((error) => error.error),
  }),
);
