// A real OpenID provider (npm oidc-provider) for tests: Client Credentials under /id, and a side door under /_test.
//
// Prints "READY <issuer>" when it accepts connections. Environment: PORT (0 takes a free one).
// Side door: PUT /_test/clients {client_id, client_secret, jwks, auth_method, ttl} adds or changes a client at once;
//            GET and DELETE /_test/stats {requests, byClient, inFlight, mostInFlight} of the token endpoint.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const SCOPES = 'read update';
const AUDIENCE = 'urn:erpsync:test';

const clients = new Map();
const lifetimes = new Map();
const records = new Map();
const none = () => ({ requests: 0, byClient: {}, inFlight: 0, mostInFlight: 0 });
let stats = none();

/** Keeps records in memory; clients come from the side door, so that a change counts at once. */
class Memory {
  constructor(kind) { this.kind = kind; }
  #key(id) { return `${this.kind}/${id}`; }
  async upsert(id, record) { records.set(this.#key(id), record); }
  async find(id) { return this.kind === 'Client' ? clients.get(id) : records.get(this.#key(id)); }
  async destroy(id) { records.delete(this.#key(id)); }
  async consume() {}
  async findByUid() {}
  async findByUserCode() {}
  async revokeByGrantId() {}
}

function makeProvider(issuer) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const provider = new Provider(issuer, {
    adapter: Memory,
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'test', use: 'sig', alg: 'RS256' }] },
    scopes: SCOPES.split(' '),
    routes: {
      token: '/connect/token',
      introspection: '/connect/introspect',
      revocation: '/connect/revoke',
      jwks: '/.well-known/openid-configuration/jwks',
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_context, _client, asked) => asked ?? AUDIENCE,
        getResourceServerInfo: (_context, audience, client) => ({
          audience,
          scope: SCOPES,
          accessTokenFormat: 'opaque',
          accessTokenTTL: lifetimes.get(client.clientId),
        }),
      },
    },
    ttl: { ClientCredentials: (_context, token) => lifetimes.get(token.clientId) },
  });
  provider.on('server_error', (_context, error) => console.error(error));
  return provider.callback();
}

function putClient({ client_id, client_secret, jwks, auth_method = 'client_secret_basic', ttl = 3600 }) {
  lifetimes.set(client_id, ttl);
  clients.set(client_id, {
    client_id,
    ...(jwks ? { jwks } : { client_secret }),
    token_endpoint_auth_method: auth_method,
    grant_types: ['client_credentials'],
    response_types: [],
    redirect_uris: [],
    scope: SCOPES,
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
