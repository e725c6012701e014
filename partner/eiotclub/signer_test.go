package eiotclub_test

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/partner/eiotclub"
)

const testSecret = "a1b1c1d1"

func params(t testing.TB, body string) eiotclub.Params {
	t.Helper()
	p, err := eiotclub.ParseParams([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return p
}

// The vectors of the carrier's documents and of ours. [contracts E.1, E.2]
func TestSignature(t *testing.T) {
	api := eiotclub.Signer{Secret: testSecret}
	webhook := eiotclub.Signer{Secret: testSecret, Exclude: []string{"appkey"}}
	for name, c := range map[string]struct {
		signer eiotclub.Signer
		body   string
		want   string
	}{
		"the carrier's own example": {
			api, `{"appkey":"000001","timestamp":1556595508,"nonce":24523,"userName":"wx","age":24,"sex":1}`,
			"963A56BAEBED746F2746E4D9B3B77BE0F2E171E7",
		},
		"a number as a text signs alike": {
			api, `{"appkey":"000001","timestamp":"1556595508","nonce":"24523","userName":"wx","age":"24","sex":"1"}`,
			"963A56BAEBED746F2746E4D9B3B77BE0F2E171E7",
		},
		"a truth is 1": {
			api, `{"appkey":"000001","timestamp":1556595508,"nonce":24523,"userName":"wx","age":24,"sex":true}`,
			"963A56BAEBED746F2746E4D9B3B77BE0F2E171E7",
		},
		"what is empty is left out": {
			api, `{"appkey":"000001","timestamp":1556595508,"nonce":24523,"userName":"wx","age":24,"sex":1,"a":null,"b":"","c":[],"sign":"X"}`,
			"963A56BAEBED746F2746E4D9B3B77BE0F2E171E7",
		},
		"a nested name with & < >": {
			webhook, `{"data":{"packageName":"A&B <1GB>"},"event":"PkgEffective","id":"x","nonce":10000,"timestamp":1}`,
			"D2F5D020887C3E46F892B2058F9C4797A544DD89",
		},
		"a nested name with escapes that need not be": {
			webhook, `{"data": {"packageName" : "A\u0026B \u003c1GB\u003e"},"event":"PkgEffective","id":"x","nonce":10000,"timestamp":1}`,
			"D2F5D020887C3E46F892B2058F9C4797A544DD89",
		},
		"a card that stopped": {
			webhook, `{"event":"CardStopped","iccid":"89000000000000000447","id":"evt-card-1","nonce":90082,"timestamp":1746050702}`,
			"357CAF06A33E2FA0DF31B49C81770E258878E3CA",
		},
		"a webhook's appkey is not signed": {
			webhook, `{"appkey":"000001","event":"CardStopped","iccid":"89000000000000000447","id":"evt-card-1","nonce":90082,"timestamp":1746050702}`,
			"357CAF06A33E2FA0DF31B49C81770E258878E3CA",
		},
		"a package that began": {
			webhook, `{"data":{"packageCode":"P100","packageName":"1GB/30天","state":1},"event":"PkgEffective","iccid":"89000000000000000447","id":"evt-pkg-1","nonce":90082,"timestamp":1746050702}`,
			"E0FF45A7BEABDC8827021214CDF79A36540E7B74",
		},
		"the same with escaped text and white space": {
			webhook, `{ "data" : {"packageCode":"P100", "packageName":"1GB\/30\u5929","state":1 },"event":"PkgEffective","iccid":"89000000000000000447","id":"evt-pkg-1","nonce":90082,"timestamp":1746050702}`,
			"E0FF45A7BEABDC8827021214CDF79A36540E7B74",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.signer.Sign(params(t, c.body)); got != c.want {
				t.Errorf("signed %s, want %s", got, c.want)
			}
		})
	}
}

func TestSignatureTellsApart(t *testing.T) {
	s := eiotclub.Signer{Secret: testSecret}
	for name, pair := range map[string][2]string{
		"zero and nothing":             {`{"a":0}`, `{}`},
		"an empty object and nothing":  {`{"a":{}}`, `{}`},
		"false and nothing":            {`{"a":false}`, `{}`},
		"10.00 and 10":                 {`{"a":10.00}`, `{"a":10}`},
		"1e6 and 1000000":              {`{"a":1e6}`, `{"a":1000000}`},
		"nested 10.00 and 10":          {`{"a":{"b":10.00}}`, `{"a":{"b":10}}`},
		"the order of nested keys":     {`{"a":{"b":1,"c":2}}`, `{"a":{"c":2,"b":1}}`},
		"names are sorted, not values": {`{"a":"2","b":"1"}`, `{"a":"1","b":"2"}`},
	} {
		t.Run(name, func(t *testing.T) {
			if s.Sign(params(t, pair[0])) == s.Sign(params(t, pair[1])) {
				t.Errorf("%s and %s have the same signature", pair[0], pair[1])
			}
		})
	}
}

func TestSignatureOfOtherPlatforms(t *testing.T) {
	p := params(t, `{"b":"2","a":true,"e":""}`)
	sum := func(source string) string {
		d := sha1.Sum([]byte(source))
		return hex.EncodeToString(d[:])
	}
	for name, c := range map[string]struct {
		signer eiotclub.Signer
		want   string
	}{
		"lower case, another name of the secret": {eiotclub.Signer{Secret: "k", LowerCase: true, SecretParam: "key"}, sum("a=1&b=2&key=k")},
		"words for truths, empty ones kept":      {eiotclub.Signer{Secret: "k", LowerCase: true, Bools: eiotclub.BoolWords, KeepEmpty: true}, sum("a=true&b=2&e=&secret=k")},
		"md5":                                    {eiotclub.Signer{Secret: "k", Hash: eiotclub.MD5}, "90FFA73CE3ECDA73A354E6ABFB948981"},
		"sha256":                                 {eiotclub.Signer{Secret: "k", Hash: eiotclub.SHA256}, "FC6DF375178157CC70EFAC32F679DAA2FA0CCF2358F3D59B2B6AFABCA0912A9D"},
		"hmac-sha256, the secret is the key":     {eiotclub.Signer{Secret: "k", Hash: eiotclub.HMACSHA256}, "ACAA976E196269880B8B3898A5EC2F3881696E4570890E89538BA5A0CBFE2829"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.signer.Sign(p); got != c.want {
				t.Errorf("signed %s, want %s", got, c.want)
			}
		})
	}
}

func TestVerification(t *testing.T) {
	s := eiotclub.Signer{Secret: testSecret, Exclude: []string{"appkey"}}
	signed := func(style eiotclub.Signer, body string) string {
		return strings.TrimSuffix(body, "}") + `,"sign":"` + style.Sign(params(t, body)) + `"}`
	}
	words, raw := s, s
	words.Bools, raw.Nested = eiotclub.BoolWords, eiotclub.NestedRaw
	const body = `{"event":"x","ok":true,"data":{"n":"1GB\/30"}}`
	for name, good := range map[string]string{
		"as configured":             signed(s, body),
		"the other style of truths": signed(words, body),
		"nested as it was sent":     signed(raw, body),
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Verify(params(t, good)); err != nil {
				t.Error(err)
			}
		})
	}
	good := signed(s, body)
	sign := s.Sign(params(t, body))
	for name, bad := range map[string]string{
		"none":                body,
		"empty":               strings.Replace(good, sign, "", 1),
		"one character":       strings.Replace(good, sign, "X", 1),
		"longer":              strings.Replace(good, sign, sign+"0", 1),
		"shorter":             strings.Replace(good, sign, sign[1:], 1),
		"of another text":     strings.Replace(good, `"x"`, `"y"`, 1),
		"a number":            strings.Replace(good, `"`+sign+`"`, "1", 1),
		"a list":              strings.Replace(good, `"`+sign+`"`, "[1]", 1),
		"very long, not hex":  strings.Replace(good, sign, strings.Repeat("secret=", 1000), 1),
		"of another secret":   signed(eiotclub.Signer{Secret: "b"}, body),
		"more fields than in": strings.Replace(good, "{", `{"extra":1,`, 1),
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			err := s.Verify(params(t, bad))
			var mismatch *eiotclub.Mismatch
			if !errors.As(err, &mismatch) {
				t.Fatalf("got %v", err)
			}
			if len(mismatch.Expected) != 8 || len(mismatch.Received) > 8 || strings.Contains(err.Error(), "secret") {
				t.Errorf("says %q", err)
			}
		})
	}
}

func TestParametersThatAreNone(t *testing.T) {
	for _, body := range []string{``, `[]`, `1`, `null`, `{`, `{"a":1`, `{"a":1}x`, `{"a":1}{}`, `{"a":1,"a":2}`, `{"a":}`, `{a:1}`} {
		if _, err := eiotclub.ParseParams([]byte(body)); err == nil {
			t.Errorf("%s was read", body)
		}
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	s := eiotclub.Signer{Secret: testSecret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if out := fmt.Sprintf(verb, s); strings.Contains(out, testSecret) || strings.Contains(out, hex.EncodeToString([]byte(testSecret))) {
			t.Errorf("%s prints %s", verb, out)
		}
	}
	if out, err := json.Marshal(s); err != nil || strings.Contains(string(out), testSecret) {
		t.Errorf("JSON is %s, %v", out, err)
	}
}

// FuzzSign holds the signature against one that is computed the plain way, from the
// text that the signer never puts together.
func FuzzSign(f *testing.F) {
	f.Add(`{"a":1,"b":"x&y","c":{"z":1,"a":[true,null]},"d":[],"e":null,"f":10.00}`)
	f.Add(`{"data":{"packageName":"1GB\/30\u5929"},"ok":false}`)
	f.Fuzz(func(t *testing.T, body string) {
		p, err := eiotclub.ParseParams([]byte(body))
		if err != nil {
			return
		}
		s := eiotclub.Signer{Secret: testSecret, Nested: eiotclub.NestedRaw}
		var pairs []string
		names := make([]string, 0, len(p))
		for name := range p {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			if text := plain(p[name]); name != "sign" && text != "" {
				pairs = append(pairs, name+"="+text)
			}
		}
		digest := sha1.Sum([]byte(strings.Join(append(pairs, "secret="+testSecret), "&")))
		if got, want := s.Sign(p), strings.ToUpper(hex.EncodeToString(digest[:])); got != want {
			t.Fatalf("%q: signed %s, want %s", body, got, want)
		}
		sign, _ := json.Marshal(s.Sign(p))
		p["sign"] = sign
		if err := s.Verify(p); err != nil {
			t.Fatal(err)
		}
		other := eiotclub.Signer{Secret: testSecret}
		p["sign"], _ = json.Marshal(other.Sign(p))
		if err := s.Verify(p); err != nil {
			t.Fatal(err)
		}
	})
}

// plain is a value as PHP and the carrier's documents would have it.
func plain(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return ""
	}
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "1"
		}
		return "0"
	case json.Number:
		return v.String()
	}
	var compact strings.Builder
	inText, escaped := false, false
	for _, c := range []byte(raw) {
		if !inText && strings.IndexByte(" \t\r\n", c) >= 0 {
			continue
		}
		compact.WriteByte(c)
		switch {
		case escaped:
			escaped = false
		case inText && c == '\\':
			escaped = true
		case c == '"':
			inText = !inText
		}
	}
	if compact.String() == "[]" {
		return ""
	}
	return compact.String()
}
