// node-oidc-provider with a login that believes anybody, for identity_test.go and
// staff_test.go. It prints its issuer, and "rotated" after each line "rotate" of its standard input,
// which replaces its keys; it ends with its standard input. login_hint says who
// signs in: subject|e-mail|true or false|groups, separated by commas.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

console.info = console.error; // the provider's notices; standard output is ours

const redirect = 'https://app.example.com/callback';
const staffRedirect = 'https://cloud.example.com/admin/auth/oidc/callback';
const accounts = new Map();

function key(type, options, alg) {
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' });
  return { ...jwk, kid: randomUUID(), use: 'sig', alg };
}

const client = (client_id, alg, back = redirect) => ({
  client_id, redirect_uris: [back], response_types: ['code'], grant_types: ['authorization_code'],
  token_endpoint_auth_method: 'none', id_token_signed_response_alg: alg,
});

function start(issuer) {
  const provider = new Provider(issuer, {
    jwks: { keys: [key('rsa', { modulusLength: 2048 }, 'RS256'), key('ec', { namedCurve: 'P-256' }, 'ES256')] },
    clients: [client('app.ios', 'RS256'), client('app.stranger', 'RS256'), client('app.acme', 'ES256'), client('console', 'ES256', staffRedirect)],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'] },
    conformIdTokenClaims: false,
    cookies: { keys: [randomUUID()] },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...accounts.get(id) }) }),
    async loadExistingGrant(ctx) { // consent is given
      const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
      grant.addOIDCScope('openid email groups');
      await grant.save();
      return grant;
    },
  });
  const answer = provider.callback();
  return async (req, res) => {
    if (!req.url.startsWith('/interaction/')) {
      answer(req, res);
      return;
    }
    const { params } = await provider.interactionDetails(req, res);
    const [accountId, email, verified, groups] = params.login_hint.split('|');
    accounts.set(accountId, { ...(email && { email, email_verified: verified === 'true' }), ...(groups && { groups: groups.split(',') }) });
    await provider.interactionFinished(req, res, { login: { accountId } }, { mergeWithLastSubmission: false });
  };
}

let current;
const server = createServer((req, res) => current(req, res));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  current = start(issuer);
  console.log(issuer);
  createInterface({ input: process.stdin })
    .on('line', () => { current = start(issuer); console.log('rotated'); })
    .on('close', () => process.exit(0));
});
