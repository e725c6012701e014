package dataplan

import (
	"fmt"
	"log/slog"
)

// ICCID is the number of a SIM card, 18 to 22 digits. Whoever knows it can address the
// card, and it leads to a person: every format of it is masked, and only the store, the
// carrier and who may see SIMs in full get its text, by a conversion to string.
type ICCID string

// ParseICCID refuses what cannot be the number of a SIM. [ITU-T E.118]
func ParseICCID(s string) (ICCID, bool) {
	if len(s) < 18 || len(s) > 22 {
		return "", false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return "", false
		}
	}
	return ICCID(s), true
}

// Masked is the first four and the last four digits, as answers show them; "" when there
// is no SIM. [contracts E.4]
func (i ICCID) Masked() string {
	if len(i) < 12 {
		return ""
	}
	return string(i[:4]) + "…" + string(i[len(i)-4:])
}

// Last4 is what the payment provider may know.
func (i ICCID) Last4() string {
	if len(i) < 12 {
		return ""
	}
	return string(i[len(i)-4:])
}

// String masks.
func (i ICCID) String() string { return i.Masked() }

// Format masks, for every verb.
func (i ICCID) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(i.Masked())) }

// LogValue masks.
func (i ICCID) LogValue() slog.Value { return slog.StringValue(i.Masked()) }

// MarshalText masks.
func (i ICCID) MarshalText() ([]byte, error) { return []byte(i.Masked()), nil }
