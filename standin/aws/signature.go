package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// problem is an error as AWS answers it.
type problem struct {
	status  int
	code    string
	message string
}

func (p *problem) Error() string { return p.code + ": " + p.message }

func denied(code, message string) *problem { return &problem{http.StatusForbidden, code, message} }

var (
	errNoSignature  = denied("MissingAuthenticationTokenException", "The request is not signed.")
	errBadSignature = denied("SignatureDoesNotMatch", "The signature does not match the request.")
	errUnknownKey   = denied("UnrecognizedClientException", "The security token included in the request is invalid.")
	errExpiredToken = denied("ExpiredTokenException", "The security token included in the request is expired.")
	errStaleRequest = denied("RequestExpired", "The request has expired.")
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	maxSkew    = 5 * time.Minute
)

// claimed is what a request says of its own signature.
type claimed struct {
	keyID, date, region, service string
	signed                       []string // names of headers, lower case
	signature                    string
	token                        string
	at                           time.Time
	presigned                    bool
	expires                      time.Duration // of a presigned request
}

// claims reads what a request says of its signature, in its header or in its query.
func claims(r *http.Request) (c claimed, err error) {
	var credential, signed, at string
	if q := r.URL.Query(); q.Get("X-Amz-Algorithm") != "" {
		if q.Get("X-Amz-Algorithm") != algorithm {
			return c, errNoSignature
		}
		seconds, err := strconv.Atoi(q.Get("X-Amz-Expires"))
		if err != nil || seconds < 1 || seconds > 604800 {
			return c, errStaleRequest
		}
		c.presigned, c.expires = true, time.Duration(seconds)*time.Second
		credential, signed, at = q.Get("X-Amz-Credential"), q.Get("X-Amz-SignedHeaders"), q.Get("X-Amz-Date")
		c.signature, c.token = q.Get("X-Amz-Signature"), q.Get("X-Amz-Security-Token")
	} else {
		text, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm+" ")
		if !ok {
			return c, errNoSignature
		}
		for part := range strings.SplitSeq(text, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch name {
			case "Credential":
				credential = value
			case "SignedHeaders":
				signed = value
			case "Signature":
				c.signature = value
			}
		}
		at, c.token = r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Security-Token")
	}
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || c.signature == "" {
		return c, errNoSignature
	}
	c.keyID, c.date, c.region, c.service = scope[0], scope[1], scope[2], scope[3]
	c.signed = strings.Split(signed, ";")
	if c.at, err = time.Parse(timeFormat, at); err != nil || c.at.Format("20060102") != c.date {
		return c, errNoSignature
	}
	return c, nil
}

// authenticate is who signed a request, and that it is what they signed. The body has
// been read.
func (s *Server) authenticate(r *http.Request, body []byte) (caller, error) {
	c, err := claims(r)
	if err != nil {
		return caller{}, err
	}
	who, ok := s.callerByKey(c.keyID)
	if !ok || subtle.ConstantTimeCompare([]byte(who.token), []byte(c.token)) != 1 {
		return caller{}, errUnknownKey
	}
	now := s.opts.Now()
	if !who.expires.IsZero() && !now.Before(who.expires) {
		return caller{}, errExpiredToken
	}
	if c.region != s.opts.Region {
		return caller{}, denied("InvalidSignatureException", "Credential should be scoped to a valid region.")
	}
	if c.at.After(now.Add(maxSkew)) || !c.presigned && c.at.Before(now.Add(-maxSkew)) || c.presigned && !now.Before(c.at.Add(c.expires)) {
		return caller{}, errStaleRequest
	}
	want, err := c.resign(r, body, sdk.Credentials{AccessKeyID: c.keyID, SecretAccessKey: who.secret, SessionToken: who.token})
	if err != nil {
		return caller{}, err
	}
	if subtle.ConstantTimeCompare([]byte(want), []byte(c.signature)) != 1 {
		return caller{}, errBadSignature
	}
	who.service = c.service
	return who, nil
}

// resign computes the signature that the request must have: the request is made again
// from what was signed of it, and nothing else.
func (c claimed) resign(r *http.Request, body []byte, keys sdk.Credentials) (string, error) {
	if !slices.Contains(c.signed, "host") {
		return "", errBadSignature
	}
	again := &http.Request{Method: r.Method, Host: r.Host, Header: http.Header{}, URL: &url.URL{
		Scheme: "https", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery,
	}}
	for _, name := range c.signed {
		switch {
		case name == "host":
		case name == "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if given := r.Header.Get("X-Amz-Content-Sha256"); given != "" && given != hash {
		return "", errBadSignature
	}
	signer := v4.NewSigner()
	if !c.presigned {
		if err := signer.SignHTTP(context.Background(), keys, again, hash, c.service, c.region, c.at); err != nil {
			return "", err
		}
		_, signature, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
		return signature, nil
	}
	q := r.URL.Query()
	for _, name := range []string{"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Algorithm", "X-Amz-SignedHeaders", "X-Amz-Security-Token"} {
		q.Del(name)
	}
	again.URL.RawQuery = q.Encode()
	address, _, err := signer.PresignHTTP(context.Background(), keys, again, hash, c.service, c.region, c.at)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	return u.Query().Get("X-Amz-Signature"), nil
}

// readBody is a request's body, which is small at all of AWS that we know.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, 8<<20))
	return b.Bytes(), err
}
