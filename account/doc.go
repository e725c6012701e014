// Package account is the domain of people: users and their identities, platform
// staff, and the signed tokens that both carry. It may use package registry and
// never the other domains.
//
// A token is an EdDSA-signed JWT that says everything a request needs, so that
// checking one reads no database: [Service.ActorByToken] turns it into a
// [registry.Actor]. Two audiences keep people and staff apart: a token of "app"
// is never staff, whatever else it says. [contracts C.3]
//
// Every sign-in opens a session (session.go): a row, a family of refresh tokens of
// which each works once (refresh.go), and the access tokens that carry its id. A
// session that ends, ends at once: a set in memory, filled from the database at the
// start, has the ids whose tokens may still be alive (revocation.go), and whoever
// holds something open on it is told ([Service.Follow]).
//
// A person gets in through a [Provider]: what it vouches for becomes an [Identity],
// and that leads to the user, never the e-mail (login.go, identity.go). The provider
// "dev", which believes an e-mail address, exists only in development mode.
//
// The keys that sign come and go while the program runs (keyring.go).
//
// Staff get in with a password: argon2id, a bounded number of hashes at once, the
// same work and the same answer for an unknown address and a wrong password, and
// a lock-out (lockout.go).
package account
