// Package kvs is Amazon Kinesis Video Streams, with the services that lead to it: AWS
// STS, which gives temporary credentials, and Amazon Cognito. It implements
// [media.Cloud] by the AWS SDK; no other package of the program but its sisters in
// partner/ knows the SDK.
//
// Each call is of a session of its own, with a policy that names one stream or one
// channel by its full ARN (policy.go). What is kept is where the streams answer and what
// their ARNs are (cache.go), never a credential. Errors of AWS become those of package
// media in one table (errors.go).
package kvs
