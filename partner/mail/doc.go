// Package mail hands the mails of package account over to a mail server (smtp.go),
// or writes them into a folder where there is none (outbox.go). It sends one mail
// when it is asked to; what waits and what is tried again is account's.
package mail
