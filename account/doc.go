// Package account is the domain of people: users and their identities, platform
// staff, service accounts, and the signed tokens that all carry. It may use package registry and
// never the other domains.
//
// A token is an EdDSA-signed JWT that says everything a request needs, so that
// checking one reads no database: [Service.ActorByToken] turns it into a
// [registry.Actor]. Three audiences keep people, staff and service accounts apart: a
// token of "app" is never staff, whatever else it says. [contracts C.3]
//
// Every sign-in opens a session (session.go): a row, a family of refresh tokens of
// which each works once (refresh.go), and the access tokens that carry its id. A
// session that ends, ends at once: a set in memory, filled from the database at the
// start, has the ids whose tokens may still be alive (revocation.go), and whoever
// holds something open on it is told ([Service.Follow]).
//
// A person gets in through a [Provider]: what it vouches for becomes an [Identity],
// and that leads to the user, never the e-mail (login.go, identity.go). The provider
// "dev", which believes an e-mail address, exists only in development mode. Or they
// prove their mailbox to us, by a link that is mailed to them (magiclink.go) after the
// request for it was answered (postbox.go).
//
// The keys that sign come and go while the program runs (keyring.go).
//
// Staff get in with a password: argon2id, a bounded number of hashes at once, the
// same work and the same answer for an unknown address and a wrong password, and
// a lock-out (lockout.go); with a second factor where one is set up (totp.go), or
// through the identity provider of staff (staffoidc.go). staff.go and user.go are what
// administrators do to staff and people.
//
// A service account (serviceaccount.go) trades its client secret for a token or shows
// an API key (servicecredential.go). Credentials that have been shown are kept in memory
// until they change, so that a revocation acts at the next request.
package account
