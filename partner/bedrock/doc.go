// Package bedrock shows pictures to a model of Amazon Bedrock and asks it the one
// question that there is: what is to be seen. It implements [media.Model].
//
// The question and the form of the answer are fixed (question.go): the model is made to
// call a tool, whose input has a schema. What comes back is handed on as it is; package
// media judges it. [contracts B]
package bedrock
