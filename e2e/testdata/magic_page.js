// Runs the script of a page from standard input, with the fragment of the first
// argument, and prints what it opens; for magiclink_test.go.
const vm = require('node:vm');

const page = require('node:fs').readFileSync(0, 'utf8');
const [, app] = /data-app="([^"]*)"/.exec(page);
const [, script] = /<script>([^]*)<\/script>/.exec(page);
const entities = { '&amp;': '&', '&lt;': '<', '&gt;': '>', '&#34;': '"', '&#39;': "'" };

const elements = {};
for (const [, id] of page.matchAll(/ id="([^"]*)"/g)) elements[id] = { hidden: true, dataset: {} };
elements.magic.dataset.app = app.replace(/&[#0-9a-z]+;/g, (entity) => entities[entity]);

const location = { hash: process.argv[2], pathname: '/auth/magic', href: '' };
let shown = location.hash;
const history = { replaceState: (state, title, url) => { shown = url; } };
vm.runInNewContext(script, { document: { getElementById: (id) => elements[id] }, location, history });

const opens = !elements.ready.hidden;
if (opens === !elements.broken.hidden) throw new Error('it shows both or neither');
if (opens && (elements.open.href !== location.href || shown !== '/auth/magic')) throw new Error('the link is another, or stays in the history');
console.log(location.href);
