// Package idp asks identity providers who somebody is, for package account: any
// issuer of OpenID Connect ID tokens (oidc.go), Google and Apple among them, and
// WeChat's mini programs (wechat.go).
//
// What comes from a provider is the outside's word: answers are bounded in size and
// time (client.go), an issuer's keys are kept and fetched anew at a bounded rate
// whatever anybody sends (keyset.go), and no secret gets into an error, which a URL
// in an error of net/http would be.
package idp
