package account

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// guessed are the words that sample configurations, manuals and people put where a
// secret belongs, longer ones before those that they contain.
var guessed = []string{
	"administrator", "correcthorsebatterystaple", "correct horse battery staple", "placeholder", "devicecloud", "opticworks", "replaceme", "replace-me", "replace_me",
	"change-this", "changethis", "change-me", "change_me", "changeme", "password", "passw0rd", "p@ssw0rd", "passwort", "postgres", "qwertyuiop", "iloveyou", "letmein",
	"example", "default", "hunter2", "welcome", "dragon", "monkey", "qwerty", "insert", "secret", "sample", "foobar", "dummy", "admin", "super", "token", "value", "string",
	"1234567890", "0123456789", "123456789", "12345678", "123456", "test", "todo", "demo", "root", "user", "smtp", "your", "here", "pass", "prod", "key", "the", "dev", "my", "xxx",
}

// leftover is how many characters beside well-known words do not make a secret.
const leftover = 4

// Guessable says why a secret of text would be guessed, as the end of a sentence: a
// placeholder, a pattern, words that are tried first. "" is a good one. It says nothing
// of the length.
func Guessable(secret string) (why string) {
	switch {
	case placeholder(secret):
		return "is a placeholder: put the secret in its place"
	case pattern([]byte(secret)):
		return "is one character or a pattern repeated"
	}
	rest := strings.ToLower(secret)
	for _, word := range guessed {
		rest = strings.ReplaceAll(rest, word, "")
	}
	if len(rest) <= leftover && rest != strings.ToLower(secret) {
		return "is one of the passwords that are tried first"
	}
	return ""
}

// placeholder reports whether a text is what a manual shows instead of a value. Bytes
// that are no text are none: one random key in 13,000 begins and ends like one.
func placeholder(s string) bool {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return false
	}
	for _, form := range [][2]string{{"<", ">"}, {"{", "}"}, {"[", "]"}, {"${", "}"}, {"$(", ")"}, {"%", "%"}} {
		if len(s) > 1 && strings.HasPrefix(s, form[0]) && strings.HasSuffix(s, form[1]) {
			return true
		}
	}
	return strings.Trim(s, ".…*- ") == ""
}

// pattern reports whether bytes are a piece of them repeated, or go up or down in even
// steps.
func pattern(b []byte) bool {
	for n := 1; n <= len(b)/2; n++ {
		if bytes.Equal(b[n:], b[:len(b)-n]) {
			return true
		}
	}
	for i := 2; i < len(b); i++ {
		if b[i]-b[i-1] != b[1]-b[0] {
			return false
		}
	}
	return len(b) > 2
}
