package mail

import (
	"crypto/rand"
	"errors"
	"fmt"
	netmail "net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"

	"github.com/opticworks/devicecloud/account"
)

// maxLine is in bytes, without the line break. [RFC 5322 2.1.1]
const maxLine = 998

var errText = errors.New("mail: the text is not one of printable lines of at most 998 bytes")

// message writes a mail down. A text in ASCII is sent as it is, so that no line of it, and
// no link in it, is cut or encoded; any other is quoted-printable. [RFC 2045 6.7]
func message(from string, m account.Mail, now time.Time) (*gomail.Msg, error) {
	ascii := true
	for line := range strings.SplitSeq(m.Text, "\n") {
		if len(line) > maxLine || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return nil, errText
		}
		ascii = ascii && !strings.ContainsFunc(line, func(r rune) bool { return r > '~' })
	}
	// go-mail's 7bit quotes what it says that it does not quote; its 8bit leaves the
	// text alone. What is declared 8bit may well be ASCII. [RFC 2045 6.2]
	encoding, charset, part := gomail.EncodingUSASCII, gomail.CharsetASCII, gomail.NoEncoding
	if !ascii {
		encoding, charset, part = gomail.EncodingQP, gomail.CharsetUTF8, gomail.EncodingQP
	}
	msg := gomail.NewMsg(gomail.WithEncoding(encoding), gomail.WithCharset(charset), gomail.WithNoDefaultUserAgent())
	if msg.From(from) != nil { // go-mail's error quotes
		return nil, errors.New("mail: the sender is no e-mail address")
	}
	if msg.To(m.To) != nil {
		return nil, fmt.Errorf("%w: the recipient is no e-mail address", account.ErrMailRefused)
	}
	msg.Subject(m.Subject)
	msg.SetDateWithValue(now)
	msg.SetMessageIDWithValue(strings.ToLower(rand.Text()) + "@" + domain(from))
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // keeps absent people's answers away [RFC 3834 5]
	msg.SetBodyString(gomail.TypeTextPlain, m.Text, gomail.WithPartEncoding(part))
	return msg, nil
}

// CheckFrom refuses what cannot be the sender of mails: "a@example.com" and
// "Name <a@example.com>" can.
func CheckFrom(from string) error {
	if _, err := netmail.ParseAddress(from); err != nil || strings.ContainsAny(from, "\r\n") {
		return errors.New("not an e-mail address")
	}
	return nil
}

// domain is the part of a sender behind the @, which makes message ids unique.
func domain(from string) string {
	a, err := netmail.ParseAddress(from)
	if err != nil {
		return "localhost"
	}
	return a.Address[strings.LastIndexByte(a.Address, '@')+1:]
}
