// A real OpenID provider (npm oidc-provider) for tests: Client Credentials and people under /id, with the provider's
// own forms to sign in (any name, any password), and a side door under /_test.
//
// Prints "READY <issuer>" when it accepts connections. Environment: PORT (0 takes a free one).
// Side door: PUT /_test/clients {client_id, client_secret, jwks, auth_method, ttl, people} adds or changes a client at
//            once; one for people takes them back to any port of 127.0.0.1;
//            GET and DELETE /_test/stats {requests, byClient, inFlight, mostInFlight} of the token endpoint.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const SCOPES = 'read update';
const PROTOCOL = 'openid offline_access';
const AUDIENCE = 'urn:erpsync:test';

const clients = new Map();
const lifetimes = new Map();
const records = new Map();
const grants = new Map();
const none = () => ({ requests: 0, byClient: {}, inFlight: 0, mostInFlight: 0 });
let stats = none();

/** Keeps records in memory; clients come from the side door, so that a change counts at once. */
class Memory {
  constructor(kind) { this.kind = kind; }
  #key(id) { return `${this.kind}/${id}`; }
  async upsert(id, record) {
    records.set(this.#key(id), record);
    if (record.grantId) grants.set(record.grantId, [...(grants.get(record.grantId) ?? []), this.#key(id)]);
  }
  async find(id) { return this.kind === 'Client' ? clients.get(id) : records.get(this.#key(id)); }
  async destroy(id) { records.delete(this.#key(id)); }
  async consume(id) { records.get(this.#key(id)).consumed = Math.floor(Date.now() / 1000); }
  async findByUid(uid) {
    return [...records].find(([key, record]) => key.startsWith('Session/') && record.uid === uid)?.[1];
  }
  async findByUserCode() {}
  async revokeByGrantId(grantId) { (grants.get(grantId) ?? []).forEach((key) => records.delete(key)); }
}

function makeProvider(issuer) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const provider = new Provider(issuer, {
    adapter: Memory,
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'test', use: 'sig', alg: 'RS256' }] },
    scopes: [...PROTOCOL.split(' '), ...SCOPES.split(' ')],
    cookies: { keys: ['test'] },
    rotateRefreshToken: true,
    routes: {
      authorization: '/connect/authorize',
      token: '/connect/token',
      introspection: '/connect/introspect',
      revocation: '/connect/revoke',
      jwks: '/.well-known/openid-configuration/jwks',
    },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_context, _client, asked) => asked ?? AUDIENCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (_context, audience, client) => ({
          audience,
          scope: SCOPES,
          accessTokenFormat: 'opaque',
          accessTokenTTL: lifetimes.get(client.clientId),
        }),
      },
    },
    ttl: { ClientCredentials: (_context, token) => lifetimes.get(token.clientId), Session: 600, Grant: 600, Interaction: 600 },
  });
  provider.on('server_error', (_context, error) => console.error(error));
  return provider.callback();
}

function putClient({ client_id, client_secret, jwks, auth_method = 'client_secret_basic', ttl = 3600, people = false }) {
  lifetimes.set(client_id, ttl);
  clients.set(client_id, {
    client_id,
    ...(jwks ? { jwks } : client_secret ? { client_secret } : {}),
    token_endpoint_auth_method: auth_method,
    ...(people
      ? {
        application_type: 'native',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: ['http://127.0.0.1/'],
        scope: `${PROTOCOL} ${SCOPES}`,
      }
      : { grant_types: ['client_credentials'], response_types: [], redirect_uris: [], scope: SCOPES }),
  });
}

function clientOf(request, body) {
  const [scheme, credentials = ''] = (request.headers.authorization ?? '').split(' ');
  if (scheme !== 'Basic') return new URLSearchParams(body).get('client_id') ?? '';
  return decodeURIComponent(Buffer.from(credentials, 'base64').toString().split(':')[0]);
}

function count(request, response, body) {
  const client = clientOf(request, body);
  stats.requests += 1;
  stats.byClient[client] = (stats.byClient[client] ?? 0) + 1;
  stats.inFlight += 1;
  stats.mostInFlight = Math.max(stats.mostInFlight, stats.inFlight);
  response.once('close', () => { stats.inFlight -= 1; });
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

let provider;
const server = createServer(async (request, response) => {
  const route = `${request.method} ${request.url}`;
  if (request.url.startsWith('/_test/')) {
    if (route === 'PUT /_test/clients') putClient(JSON.parse(await read(request)));
    if (route === 'DELETE /_test/stats') stats = { ...none(), inFlight: stats.inFlight };
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(stats));
    return;
  }
  if (route === 'POST /id/connect/token') {
    const body = await read(request);
    count(request, response, body);
    request.body = body; // oidc-provider takes a body that was read already
  }
  request.originalUrl = request.url; // tells it that it is mounted under /id
  request.url = request.url.replace(/^\/id/, '') || '/';
  provider(request, response);
});

server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}/id`;
  provider = makeProvider(issuer);
  console.log(`READY ${issuer}`);
});
