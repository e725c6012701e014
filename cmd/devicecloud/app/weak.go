package app

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/opticworks/devicecloud/account"
)

const (
	// minAdminPassword and minSharedSecret are in bytes. The latter is for what others
	// made for us: database, mail server, login provider.
	minAdminPassword = 12
	minSharedSecret  = 8
)

// published are Ed25519 private keys that stand in specifications, as seeds in hex:
// whoever searches for one may sign with it.
var published = []string{
	"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", // [RFC 8032 7.1] [RFC 8037 A.1]
	"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", // [RFC 8032 7.1]
	"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", // [RFC 8032 7.1]
	"d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842", // [RFC 8410 10.3]
}

// weakText refuses a secret of text that is too short or would be guessed. The error
// is the end of a sentence and holds nothing of the secret.
func weakText(s string, least int) error {
	why := account.Guessable(s)
	switch {
	case why == "" && len(s) < least:
		return fmt.Errorf("is shorter than %d characters", least)
	case why != "":
		return errors.New(why)
	}
	return nil
}

// weakShared is weakText for a secret that somebody else made for us.
func weakShared(s string) error { return weakText(s, minSharedSecret) }

// weakPrefixed is weakShared for what follows a prefix; what has none is not judged: it is
// no such secret, and something else says so.
func weakPrefixed(prefixes ...string) func(string) error {
	return func(s string) error {
		for _, p := range prefixes {
			if rest, ok := strings.CutPrefix(s, p); ok && rest != "" {
				return weakShared(rest)
			}
		}
		return nil
	}
}

// weakKey refuses key bytes that did not come from a random source: a pattern, text,
// too few different bytes. Of 32 random bytes none of it is true, but once in 10^12.
func weakKey(key []byte) error {
	var seen [256]bool
	different, printable := 0, 0
	for _, c := range key {
		if !seen[c] {
			seen[c] = true
			different++
		}
		if c >= ' ' && c <= '~' {
			printable++
		}
	}
	switch {
	case account.Guessable(string(key)) != "":
		return errors.New("is one byte or a pattern repeated: make a random one")
	case printable == len(key):
		return errors.New("is text and not random bytes: make a random one")
	case different < len(key)/2:
		return errors.New("is not random: make one")
	}
	return nil
}

// weakSigningKey refuses private keys, in PEM, that others have or can guess. What is
// no key is not its business.
func weakSigningKey(text string) error {
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		key, ok := parsed.(ed25519.PrivateKey)
		if err != nil || !ok {
			continue
		}
		for _, known := range published {
			if hex.EncodeToString(key.Seed()) == known {
				return errors.New("is published in a specification: make one of your own")
			}
		}
		if err := weakKey(key.Seed()); err != nil {
			return err
		}
	}
	return nil
}

// weakURL refuses a password in a URL that would be guessed. A URL without one is
// good: the server lets us in otherwise.
func weakURL(text string) error {
	if strings.HasPrefix(text, "sqlite:") {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a URL") // the error would quote the password
	}
	password, given := u.User.Password()
	if query := u.Query(); query.Has("password") { // as PostgreSQL allows
		password, given = query.Get("password"), true
	}
	switch {
	case !given:
		return nil
	case password == u.User.Username():
		return errors.New("has the user's name as password")
	}
	if err := weakShared(password); err != nil {
		return fmt.Errorf("has a password that %w", err)
	}
	return nil
}
