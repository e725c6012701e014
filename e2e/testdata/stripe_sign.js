// Signs each line of JSON that it reads, {"payload": "...", "secret": "whsec_..."}, with
// Stripe's own library, and prints the header Stripe-Signature.
const readline = require("readline");
const Stripe = require("../node_modules/stripe");
const stripe = new Stripe("sk_test_1");
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  console.log(stripe.webhooks.generateTestHeaderString(JSON.parse(line)));
});
