package account

// ParseAPIKey is parseAPIKey, for the fuzz target.
var ParseAPIKey = parseAPIKey

// Code is the password of a time step, as an authenticator shows it.
func (t TOTPSecret) Code(step int64) string { return t.code(step) }

// TOTPSecretOf makes a secret of its bytes.
func TOTPSecretOf(b []byte) TOTPSecret { return TOTPSecret{b} }
