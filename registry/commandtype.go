package registry

import (
	"encoding/json"
	"math"
	"net/url"
	"strings"
	"time"
)

// commandType is what is known of a type of command. A type that is not in the table
// is the firmware's and the app's own.
type commandType struct {
	dangerous    bool          // cannot be undone: owners alone, just signed in, never queued
	restarts     bool          // the device restarts by it: what it has got is never sent again
	newestCounts bool          // a newer queued one takes the place of an older
	execution    time.Duration // from delivery to the answer
	rate         Rate          // on one device
	check        func(params []byte) error
}

// The types that the cloud knows. [contracts G.2]
var commandTypes = map[string]commandType{
	"reboot":        {restarts: true, execution: time.Minute, rate: Rate{200 * time.Second, 3}},
	"factory-reset": {dangerous: true, restarts: true, execution: time.Minute, rate: Rate{time.Hour, 1}, check: checkNothing},
	"ota":           {dangerous: true, restarts: true, execution: 30 * time.Minute, rate: Rate{12 * time.Minute, 5}, check: checkOTA},
	"unlock":        {dangerous: true, execution: 30 * time.Second},
	"identify":      {execution: 10 * time.Second},
	"end-viewer":    {execution: 10 * time.Second},
	"targets":       {execution: 10 * time.Second},
	"set-config":    {newestCounts: true, execution: 30 * time.Second, rate: Rate{3 * time.Second, 20}, check: checkSetConfig},
}

const defaultExecution = time.Minute

// maxUpdateURL is how long the URL of an update may be.
const maxUpdateURL = 512

func typeOf(name string) commandType {
	t := commandTypes[name]
	if t.execution == 0 {
		t.execution = defaultExecution
	}
	return t
}

// checkNothing is for types without parameters.
func checkNothing(params []byte) error {
	return eachMember(params, func(key, _ []byte) error { return badPayload("%.40q is not known.", key) })
}

func checkOTA(params []byte) error {
	need := map[string]bool{"version": true, "url": true, "sha256": true}
	err := eachMember(params, func(name, v []byte) (err error) {
		key := string(name)
		delete(need, key)
		switch key {
		case "version":
			_, err = stringValue(key, v, 1, 32)
		case "url":
			var text string
			if text, err = stringValue(key, v, 1, maxUpdateURL); err != nil {
				return err
			}
			if u, perr := url.Parse(text); perr != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
				return badPayload("url must be an https URL.")
			}
		case "sha256":
			var text string
			if text, err = stringValue(key, v, 64, 64); err == nil && strings.Trim(text, "0123456789abcdef") != "" {
				return badPayload("sha256 must be 64 lower-case hex digits.")
			}
		case "min_rssi":
			_, err = intValue(key, v, -127, 0)
		case "rollout_id":
			_, err = stringValue(key, v, 1, 64)
		default:
			return badPayload("%.40q is not known.", key)
		}
		return err
	})
	return missing(need, err)
}

// missing is err, or that a member is not there.
func missing(need map[string]bool, err error) error {
	if err != nil {
		return err
	}
	for _, key := range []string{"version", "url", "sha256", "zones"} {
		if need[key] {
			return badPayload("%s is missing.", key)
		}
	}
	return nil
}

// checkSetConfig judges the zones of a set-config, as those of a configuration.
func checkSetConfig(params []byte) error {
	need := map[string]bool{"zones": true}
	err := eachMember(params, func(name, v []byte) (err error) {
		key := string(name)
		delete(need, key)
		switch key {
		case "version":
			_, err = intValue(key, v, 1, math.MaxInt32)
		case "zones":
			_, err = ParseZones(v)
		default:
			return badPayload("%.40q is not known.", key)
		}
		return err
	})
	return missing(need, err)
}

const hidden = "[redacted]"

// Shown is the parameters as they may be shown and audited: JSON, without what is a
// secret by its name, and without the query of a download's URL, which may be signed.
func (c Command) Shown() string {
	var params map[string]any
	if json.Unmarshal([]byte(c.Params), &params) != nil {
		return "{}"
	}
	redact(params)
	if text, ok := params["url"].(string); ok && c.Type == "ota" {
		if u, err := url.Parse(text); err == nil && u.RawQuery != "" {
			u.RawQuery = hidden
			params["url"] = u.String()
		}
	}
	text, err := json.Marshal(params)
	if err != nil {
		return "{}"
	}
	return string(text)
}

// redact replaces secrets in place.
func redact(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if secretName(key) {
				v[key] = hidden
				continue
			}
			redact(member)
		}
	case []any:
		for _, member := range v {
			redact(member)
		}
	}
}

// secretName reports whether a member of this name holds a secret.
func secretName(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"password", "passwd", "passphrase", "secret", "token", "credential", "psk", "private"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return key == "key" || key == "pin" || key == "code" || key == "otp" || strings.HasSuffix(key, "_key") || strings.HasSuffix(key, "_pin")
}
