package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// maxPayload is the largest message that is decoded or kept, in bytes.
const maxPayload = 16 << 10

// maxMembers is how many members an object may have.
const maxMembers = 64

func badPayload(format string, args ...any) *Error {
	return E(Invalid, ErrBadPayload.Code, fmt.Sprintf(format, args...))
}

func errNotJSON() *Error { return badPayload("The payload is not valid JSON.") }

// eachMember calls f for each member of the JSON object in payload, with the raw
// text of its value; both are only valid during the call. A payload that turns out
// to be bad behind a member is an error after f has seen the member.
//
// It is stricter than encoding/json, which matches keys in any letter case, takes
// the last of two equal keys and mends bad UTF-8: a device that sends such things
// is broken and should hear it. Nor does a device nest values deeper than maxDepth,
// or send more than maxMembers. It is also the hot path of every message, hence one
// pass and no reflection.
func eachMember(payload []byte, f func(key, value []byte) error) error {
	switch {
	case len(payload) > maxPayload:
		return badPayload("The payload is larger than %d bytes.", maxPayload)
	case !utf8.Valid(payload):
		return errNotJSON()
	}
	i := skipSpace(payload, 0)
	if next(payload, i) != '{' {
		return badPayload("The payload is not a JSON object.")
	}
	var room [16][]byte
	seen := room[:0]
	i = skipSpace(payload, i+1)
	for more := next(payload, i) != '}'; more; {
		end, value := scanKey(payload, i)
		if end < 0 {
			return errNotJSON()
		}
		key := payload[i+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			var err error
			if key, err = unescape(payload[i:end]); err != nil {
				return err
			}
		}
		for _, s := range seen {
			if bytes.Equal(s, key) {
				return badPayload("%.40q appears twice.", key)
			}
		}
		if len(seen) == maxMembers {
			return badPayload("The payload has more than %d members.", maxMembers)
		}
		seen = append(seen, key)
		switch end = scanValue(payload, value); {
		case end == tooDeep:
			return badPayload("The payload is JSON nested deeper than %d levels.", maxDepth)
		case end < 0:
			return errNotJSON()
		}
		if err := f(key, payload[value:end]); err != nil {
			return err
		}
		i = skipSpace(payload, end)
		if more = next(payload, i) == ','; more {
			i = skipSpace(payload, i+1)
		}
	}
	if next(payload, i) != '}' || skipSpace(payload, i+1) != len(payload) {
		return errNotJSON()
	}
	return nil
}

// unescape is the text of a JSON string with escapes.
func unescape(quoted []byte) ([]byte, error) {
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return nil, errNotJSON()
	}
	return []byte(s), nil
}

// The typed readers of a value. A null is as good as a missing member only where
// the caller says so.

func isNull(v []byte) bool { return string(v) == "null" }

func boolValue(key string, v []byte) (bool, error) {
	switch string(v) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badPayload("%s must be true or false.", key)
}

func intValue(key string, v []byte, low, high int64) (int64, error) {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n < low || n > high {
		return 0, badPayload("%s must be a whole number from %d to %d.", key, low, high)
	}
	return n, nil
}

func stringValue(key string, v []byte, low, high int) (string, error) {
	if v[0] == '"' {
		text := v[1 : len(v)-1]
		if bytes.IndexByte(text, '\\') >= 0 {
			var err error
			if text, err = unescape(v); err != nil {
				return "", err
			}
		}
		s := string(text)
		if n := utf8.RuneCountInString(s); n >= low && n <= high && printable(s) {
			return s, nil
		}
	}
	return "", badPayload("%s must be a text of %d to %d printable characters.", key, low, high)
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
