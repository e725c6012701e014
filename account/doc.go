// Package account is the domain of people: users and their identities, platform
// staff, and the signed tokens that both carry. It may use package registry and
// never the other domains.
//
// A token is an EdDSA-signed JWT that says everything a request needs, so that
// checking one reads no database: [Service.ActorByToken] turns it into a
// [registry.Actor]. Two audiences keep people and staff apart: a token of "app"
// is never staff, whatever else it says. [contracts C.3]
//
// A person gets in through a provider, behind one small interface (provider.go):
// what a provider vouches for becomes an identity (provider, subject), and the
// identity leads to the user. There is one provider so far, "dev", which believes
// an e-mail address and exists only in development mode.
//
// Staff get in with a password: argon2id, a bounded number of hashes at once, the
// same work and the same answer for an unknown address and a wrong password, and
// a lock-out (lockout.go).
package account
